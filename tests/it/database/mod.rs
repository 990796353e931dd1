//! The database by itself: its catalog, its roles, its audit log, its
//! migrations, and what operators type at it.

mod audit;
mod catalog;
mod chains;
mod connections;
mod guide;
mod interruptions;
mod isolation;
mod logins;
mod migrations;
mod mutations;
mod planner;
mod privileged;
mod psql;
mod rights;
pub mod rules;
mod tampering;
mod tenancy;
pub mod tenants;
mod verify;
