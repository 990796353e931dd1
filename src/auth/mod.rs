//! Who calls, and what they may do. The organization comes from the credential
//! and from nothing else.

mod principal;

pub use principal::{Permission, Principal};
