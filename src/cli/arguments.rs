//! Parsers of values that many commands take.

use jiff::Timestamp;
use uuid::Uuid;

/// An organization's id, or the product's own id for it.
pub fn organization(text: &str) -> Result<String, String> {
    let is_name = !text.trim().is_empty()
        && text.chars().count() <= 255
        && !text.chars().any(char::is_control);
    is_name.then(|| text.to_owned()).ok_or_else(|| {
        "expected an organization's id or the product's id for it, as shown by `organizations list`"
            .to_owned()
    })
}

/// An API key's id.
pub fn key(text: &str) -> Result<Uuid, String> {
    text.parse()
        .map_err(|_| "expected a key's id, as shown by `api-keys list`".to_owned())
}

pub fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "expected a time in RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _, Parser as _};

    use super::super::Arguments;

    fn without_help(command: &Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        let arguments = command.get_arguments();
        found.extend(
            arguments
                .filter(|argument| argument.get_help().is_none())
                .map(|argument| format!("{path}: {}", argument.get_id())),
        );
        for below in command.get_subcommands() {
            without_help(below, &path, found);
        }
    }

    #[test]
    fn each_command_and_argument_has_a_help_text() {
        let mut found = Vec::new();
        without_help(&Arguments::command(), "", &mut found);
        assert!(found.is_empty(), "without help: {found:#?}");
    }

    #[test]
    fn a_commands_own_arguments_do_not_stand_among_stripes() {
        let settings = [
            "plans_file",
            "stripe_api_base",
            "webhook_max_retries",
            "unknown_customers",
        ];
        let mut left = vec![Arguments::command()];
        let mut seen = 0;
        while let Some(command) = left.pop() {
            let stripes = command
                .get_arguments()
                .filter(|argument| argument.get_help_heading() == Some("Stripe"));
            for argument in stripes {
                let id = argument.get_id().as_str();
                assert!(settings.contains(&id), "{}: {id}", command.get_name());
                seen += 1;
            }
            left.extend(command.get_subcommands().cloned());
        }
        assert!(seen >= 20, "{seen}");
    }

    #[test]
    fn a_malformed_id_or_time_is_refused_with_what_is_expected() {
        for (line, expected) in [
            ("quotas list --organization=", "`organizations list`"),
            ("audit verify --organization=", "`organizations list`"),
            ("webhooks list --organization=\t", "`organizations list`"),
            (
                "api-keys revoke vck_1 --organization 01a223d2-5230-7201-802e-dfb4a2e27711",
                "`api-keys list`",
            ),
            ("audit list --from yesterday", "RFC 3339"),
            ("audit export --to 2026-01-31", "RFC 3339"),
            (
                "api-keys create --organization 01a223d2-5230-7201-802e-dfb4a2e27711 \
                 --scope usage.write --expires soon",
                "RFC 3339",
            ),
        ] {
            let words = std::iter::once("valuecanvas-billing").chain(line.split_whitespace());
            let refused = Arguments::try_parse_from(words).unwrap_err().to_string();
            assert!(refused.contains(expected), "{line}: {refused}");
        }
    }
}
