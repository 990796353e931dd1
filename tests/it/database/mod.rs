//! The database by itself: its catalog, its roles, its audit log, its
//! migrations, and what operators type at it.

mod catalog;
mod mutations;
mod rules;
mod verify;
