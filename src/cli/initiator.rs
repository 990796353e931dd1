//! Who runs a command, for the audit log.

use clap::parser::ArgMatches;

use crate::audit::Initiator;

/// Longer names are cut off.
const MOST: usize = 200;

/// The operating system's user and the command.
pub fn of(arguments: &ArgMatches, acting_as: Option<&str>) -> Initiator {
    let plain = |text: &str| -> String {
        let plain = text.chars().filter(|c| !c.is_control());
        plain.take(MOST).collect()
    };
    Initiator {
        user: plain(&user()),
        acting_as: acting_as
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(plain),
        command: command(arguments),
    }
}

/// The names of the command and its subcommands, such as `quotas set`, without
/// arguments.
fn command(arguments: &ArgMatches) -> String {
    let mut names = Vec::new();
    let mut at = arguments;
    while let Some((name, below)) = at.subcommand() {
        names.push(name);
        at = below;
    }
    names.join(" ")
}

/// The user who runs the command; as root, the one who called sudo.
fn user() -> String {
    let id = rustix::process::getuid();
    let caller = std::env::var("SUDO_USER").ok();
    let caller = caller.filter(|name| id.is_root() && !name.is_empty());
    caller.unwrap_or_else(|| {
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_of(&accounts, id.as_raw());
        name.unwrap_or_else(|| format!("uid {}", id.as_raw()))
    })
}

/// The name of a user id; `None` if the account is not in `/etc/passwd`.
fn name_of(accounts: &str, id: u32) -> Option<String> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_its_number() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(accounts, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(accounts, 0).as_deref(), Some("root"));
        assert_eq!(name_of(accounts, 100), None);
    }
}
