//! Probes made by the machine: what one organization's work tries on another's
//! rows, from the catalog, and what its credentials try on the API, from its
//! description. None may learn or change anything.
//!
//! `VCB_PROBES` says how many are made.

mod api;
mod attempts;
mod catalog;
mod functions;
mod mutations;
mod oracles;
mod pool;
mod statements;
mod world;

/// How many probes a test makes.
fn probes() -> usize {
    let asked = std::env::var("VCB_PROBES").ok();
    asked.map_or(3_000, |count| {
        count.parse().expect("VCB_PROBES is a number")
    })
}
