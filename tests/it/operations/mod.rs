//! What operators hold in hand: manifests, alerts, dashboards, units, backups.

mod backups;
mod manifests;
mod monitoring;
mod units;
