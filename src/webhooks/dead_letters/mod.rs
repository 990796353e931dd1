//! Dead letters, the events that could not be applied: replaying and discarding
//! them. Operators' routes and commands list them.

pub mod discard;
pub mod reason;
pub mod rehearsal;
pub mod replay;
