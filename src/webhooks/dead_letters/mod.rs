//! Events that nobody could apply: applied after all, or discarded. They are
//! listed by the operators' routes and commands.

pub mod discard;
pub mod replay;
