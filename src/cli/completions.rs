//! `completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Failure;
use super::output::print;

/// Print completions for a shell or, with `--man`, the manual page.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, required_unless_present = "man")]
    shell: Option<Shell>,
    /// Print the manual page instead.
    #[arg(long, conflicts_with = "shell")]
    man: bool,
}

impl Completions {
    pub fn run(self) -> Result<(), Failure> {
        let mut command = super::Arguments::command();
        let mut text = Vec::new();
        match self.shell {
            Some(shell) => {
                clap_complete::generate(shell, &mut command, "valuecanvas-billing", &mut text)
            }
            None => clap_mangen::Man::new(command)
                .render(&mut text)
                .map_err(|error| Failure::failed(error.to_string()))?,
        }
        print(String::from_utf8_lossy(&text).trim_end())
    }
}
