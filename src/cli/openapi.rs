//! `openapi`

use clap::Args;

use super::Failure;
use super::output::Format;
use crate::app::api;
use crate::server::openapi::Written;

#[derive(Debug, Args)]
pub struct Openapi {
    // The output is always JSON; the flag is there as in every command that prints
    // data.
    #[command(flatten)]
    _format: Format,
}

impl Openapi {
    pub fn run(self) -> Result<(), Failure> {
        Format { json: true }.print(&Written(&api::document()), |_| String::new())
    }
}
