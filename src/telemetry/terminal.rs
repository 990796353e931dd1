//! Text for terminals. Text from elsewhere must not control the terminal that
//! shows it.

use std::fmt::Display;

/// `text` as one line, with control characters replaced.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if controls(c) { '\u{fffd}' } else { c })
        .collect()
}

/// `text` with control characters written as escapes, except line ends and tabs.
/// JSON keeps its value: there they can only stand in strings.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) && !matches!(c, '\n' | '\r' | '\t') {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// `1 event`, `2 events`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let end = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// Control characters, which start escape sequences, and characters that change
/// the direction of text.
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_or_written_as_escapes() {
        let nasty = "a\u{1b}[2J\u{9b}\u{7f}\u{202e}\tb\n";
        assert_eq!(
            printable(nasty),
            "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\u{fffd}"
        );
        assert_eq!(escaped(nasty), "a\\u001b[2J\\u009b\\u007f\\u202e\tb\n");
    }

    #[test]
    fn one_thing_is_no_things() {
        let said = [0, 1, 2].map(|number| counted(number, "dead letter"));
        assert_eq!(said, ["0 dead letters", "1 dead letter", "2 dead letters"]);
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"\u{9b}": ["\u{1b}\n\u{7f}", 1]});
        let text = escaped(&value.to_string());
        assert!(text.is_ascii());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
