//! The sandbox alone, on an address.

use std::net::SocketAddr;
use std::process::ExitCode;

use stripe_sandbox::{Config, Sandbox};

const USAGE: &str =
    "usage: stripe-sandbox [--listen ADDRESS] [--seed NUMBER] [--api-version VERSION]";

#[tokio::main]
async fn main() -> ExitCode {
    let (config, address) = match read_arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Sandbox::listen(config, address).await {
        Ok(sandbox) => {
            println!("listening on {}", sandbox.url());
            sandbox.wait().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot listen on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_arguments(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Config, SocketAddr), String> {
    let mut config = Config::default();
    let mut address = SocketAddr::from(([127, 0, 0, 1], 12_111));
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        let bad = |_| format!("{name}: cannot read {value}");
        match name.as_str() {
            "--listen" => {
                address = value
                    .parse()
                    .map_err(|error: std::net::AddrParseError| bad(error.to_string()))?
            }
            "--seed" => {
                config.seed = value
                    .parse()
                    .map_err(|error: std::num::ParseIntError| bad(error.to_string()))?
            }
            "--api-version" => {
                stripe_sandbox::shape::check_version(&value).map_err(|error| error.message)?;
                config.api_version = value;
            }
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok((config, address))
}
