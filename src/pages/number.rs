//! Numbers as the pages show them.

/// `1,234,567.5`, without zeros at its end.
pub fn grouped(number: impl ToString) -> String {
    let text = number.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", &*text),
    };
    let (whole, rest) = match digits.split_once('.') {
        Some((whole, rest)) => match rest.trim_end_matches('0') {
            "" => (whole, String::new()),
            rest => (whole, format!(".{rest}")),
        },
        None => (digits, String::new()),
    };
    format!("{sign}{}{rest}", by_thousands(whole))
}

/// Digits with a comma before each three.
pub fn by_thousands(digits: &str) -> String {
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
