//! Consent to what cannot be taken back.

use std::io::{self, IsTerminal as _, Write as _};

use super::Failure;

/// Whether somebody can be asked, and reads what is asked.
pub fn may_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for `wanted` to be typed; false if something else is.
pub fn typed(wanted: &str) -> Result<bool, Failure> {
    let _ = write!(io::stderr(), "Type `{wanted}` to continue: ");
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::failed(format!("cannot use the terminal: {error}")))?;
    Ok(line.trim() == wanted)
}
