//! `sandbox`

use std::net::SocketAddr;

use clap::Args;
use stripe_sandbox::{Config, Sandbox};

use super::{Failure, output};

/// Runs only the stand-in for Stripe, to test your own integration: point an
/// official library, or STRIPE_API_BASE, at it. Stripe's test clocks move its time;
/// it keeps nothing when it ends.
#[derive(Debug, Args)]
pub struct Run {
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Seed for ids; the same seed gives the same ids.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// The account's API version.
    #[arg(long, value_name = "VERSION")]
    api_version: Option<String>,
}

impl Run {
    pub async fn run(self) -> Result<(), Failure> {
        let mut config = Config::default();
        if let Some(seed) = self.seed {
            config.seed = seed;
        }
        if let Some(version) = self.api_version {
            stripe_sandbox::shape::check_version(&version)
                .map_err(|error| Failure::usage(format!("--api-version: {}", error.message)))?;
            config.api_version = version;
        }
        let sandbox = Sandbox::listen(config, self.listen)
            .await
            .map_err(|error| {
                Failure::usage(format!(
                    "--listen: cannot listen on {}: {error}",
                    self.listen
                ))
            })?;
        output::print(&format!("Stripe's stand-in listens on {}", sandbox.url()))?;
        sandbox.wait().await;
        Ok(())
    }
}
