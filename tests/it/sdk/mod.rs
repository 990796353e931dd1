//! The TypeScript package, built from the service's own description and used against the
//! service; and a client in another language that is generated from the same description.

mod browser;
mod calls;
mod events;
mod generated;
pub mod package;
mod packed;
