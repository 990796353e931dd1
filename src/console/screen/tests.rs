use super::*;

#[test]
fn whatever_is_written_is_escaped() {
    let evil = "<script>alert('x')</script>\"";
    for cell in [
        Cell::text(evil),
        Cell::Code(evil.to_owned()),
        Cell::link(evil, evil),
        Cell::Badge(Tone::Bad, evil.to_owned()),
        Cell::Prose(format!("`{evil}` {evil}")),
        Cell::hidden("Facts", evil.to_owned()),
        Cell::Many(vec![Cell::text(evil), Cell::Number(evil.to_owned())]),
    ] {
        let html = cell.html();
        assert!(!html.contains("<script") && !html.contains(evil), "{html}");
    }
}

#[test]
fn only_times_are_shown_as_times() {
    let object =
        serde_json::json!({"endedAt": "2026-01-31T12:00:00Z", "value": "2026-01-31T12:00:00Z"});
    assert!(matches!(Cell::of(&object, "endedAt"), Cell::Time(_)));
    assert!(matches!(Cell::of(&object, "value"), Cell::Text(_)));
}

#[test]
fn numbers_are_grouped_and_stay_what_they_are() {
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(-1_234_567), "-1,234,567");
    assert_eq!(grouped("12345.6789"), "12,345.6789");
    assert_eq!(grouped("100.0000"), "100");
    assert_eq!(grouped("0.50"), "0.5");
    let large = "99999999999999999999";
    assert_eq!(grouped(large).replace(',', ""), large);
}
