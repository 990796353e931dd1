//! What operators hold in hand: manifests, alerts, dashboards, units, backups.

mod alertmanager;
mod backups;
mod cron;
mod deployment_guide;
mod documents;
mod image;
mod killed;
mod manifests;
mod monitoring;
mod rollout;
mod traces;
mod units;
mod walkthrough;
