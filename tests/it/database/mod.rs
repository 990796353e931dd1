//! The database by itself: its catalog, its roles, its audit log, its
//! migrations, and what operators type at it.

mod audit;
mod catalog;
mod isolation;
mod mutations;
mod rules;
mod tampering;
mod tenants;
mod verify;
