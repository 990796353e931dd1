//! Conditional requests (RFC 9110, 13.1.2).

use axum::http::{HeaderMap, header};

/// Whether the client has what `tag` names, an entity tag in quotes.
pub fn is_kept(asked: &HeaderMap, tag: &str) -> bool {
    let kept = asked.get_all(header::IF_NONE_MATCH).iter();
    let kept = kept.filter_map(|tags| tags.to_str().ok());
    kept.flat_map(|tags| tags.split(','))
        .map(str::trim)
        .any(|kept| kept.trim_start_matches("W/") == tag || kept == "*")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn any_of_the_tags_may_be_it() {
        let tags = [
            ("\"a\"", true),
            ("\"b\"", false),
            ("\"b\", W/\"a\"", true),
            ("*", true),
            ("a", false),
            ("", false),
        ];
        for (sent, kept) in tags {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(sent));
            assert_eq!(is_kept(&headers, "\"a\""), kept, "{sent}");
        }
        assert!(!is_kept(&HeaderMap::new(), "\"a\""));
    }
}
