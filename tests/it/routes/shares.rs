//! Which share of what all use each route takes of.

use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Share;

/// Each is read a part after the other, by connections that all share, for as long as its
/// client reads.
#[test]
fn what_is_answered_as_csv_takes_of_the_exports() {
    let mut exports = 0;
    for route in api::table() {
        let wanted = if route.path.ends_with(".csv") {
            Share::Downloads
        } else if route.produces.iter().any(|kind| kind == "text/csv") {
            Share::Exports
        } else {
            continue;
        };
        assert_eq!(route.share, wanted, "{}", route.path);
        exports += 1;
    }
    assert!(exports >= 7, "{exports}");
}
