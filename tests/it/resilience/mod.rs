//! The service where what it stands on fails: parts of its own, connections,
//! the server, and what is put between them.

pub mod caller;
mod capacity;
mod defaults;
mod failover;
mod parts;
mod poolers;
mod readiness;
mod replaced;
mod rights;
mod terminations;
