//! Reading the file, and naming what is wrong in it.

use super::*;

fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
    Catalogue::parse(Path::new("plans.toml"), text, &[])
}

#[test]
fn the_built_in_catalogue_has_the_three_tiers() {
    let catalogue = parse(BUILT_IN).unwrap();
    let tiers: Vec<&str> = catalogue
        .plans()
        .iter()
        .map(|plan| plan.tier.as_str())
        .collect();
    assert_eq!(tiers, ["free", "standard", "enterprise"]);
    let standard = catalogue.plan("standard").unwrap();
    assert_eq!(standard.price.amount, 9_900);
    let tokens = &standard.quotas["llm_tokens"];
    assert_eq!(tokens.quota, Some(Decimal::from(1_000_000)));
    assert_eq!(tokens.overage_rate.unwrap().to_string(), "0.00001");
    assert_eq!(
        catalogue.plan("enterprise").unwrap().quotas["user_seats"].quota,
        None
    );
}

#[test]
fn grace_may_have_a_ceiling_by_plan_and_by_metric() {
    let text = BUILT_IN
        .replacen(
            "quota = 10_000, over_limit = \"grace\"",
            "quota = 10_000, over_limit = \"grace\", grace_max = \"200%\"",
            1,
        )
        .replacen(
            "quota = 100, over_limit = \"grace\"",
            "quota = 100, over_limit = \"grace\", grace_max = 150",
            1,
        )
        .replacen(
            "api_calls = { aggregation = \"sum\"",
            "api_calls = { aggregation = \"sum\", grace_max = \"1500.5\"",
            1,
        );
    let catalogue = parse(&text).unwrap();
    let most = |tier, metric| catalogue.grace_max(tier, metric);
    let percent = GraceCeiling::Percent(200.into());
    assert_eq!(most("free", "llm_tokens"), Some(percent));
    let number = GraceCeiling::Quantity(150.into());
    assert_eq!(most("free", "agent_executions"), Some(number));
    let of_metric = GraceCeiling::Quantity("1500.5".parse().unwrap());
    assert_eq!(most("free", "api_calls"), Some(of_metric));
    // An operator may set the kind in any plan, and plans can be removed.
    assert_eq!(most("standard", "api_calls"), Some(of_metric));
    assert_eq!(most("gone", "api_calls"), Some(of_metric));
    assert_eq!(most("standard", "llm_tokens"), None);
    let shipped = parse(BUILT_IN).unwrap();
    assert_eq!(shipped.grace_max("free", "llm_tokens"), None);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn a_mistake_is_named_with_its_line() {
    let broken = |from: &str, to: &str| {
        parse(&BUILT_IN.replacen(from, to, 1))
            .unwrap_err()
            .to_string()
    };
    for (from, to, problem) in [
        (
            "user_seats = { quota = 3",
            "seats = { quota = 3",
            "is not among [metrics]",
        ),
        (
            "user_seats = { quota = 3, over_limit = \"hard\" }",
            "",
            "says no quota for \"user_seats\"",
        ),
        ("quota = 100, ", "quota = -1, ", "cannot be negative"),
        (
            "valuecanvas_enterprise_monthly",
            "valuecanvas_standard_monthly",
            "used twice",
        ),
        (
            ", lookup_key = \"valuecanvas_standard_monthly\"",
            "",
            "needs a lookup_key",
        ),
        ("\"0.00001\"", "\"1e-5\"", "is no decimal number"),
        ("tier = \"standard\"", "tier = \"free\"", "listed twice"),
        (
            "name = \"Free\"",
            "name = \"Free\"\nretired = true",
            "cannot be retired",
        ),
        (
            "name = \"Free\"",
            "name = \"Free\"\nexisting = \"move\"",
            "unknown variant",
        ),
        (
            "trial_days_max = 30",
            "trial_days_max = 731",
            "above Stripe's 730",
        ),
        (
            "upgrade = \"always_invoice\"",
            "upgrade = \"at_once\"",
            "unknown variant",
        ),
        (
            "over_limit = \"grace\"",
            "over_limit = \"soft\"",
            "unknown variant",
        ),
        (
            "quota = 10_000, over_limit = \"grace\"",
            "quota = 10_000, over_limit = \"grace\", grace_max = \"99.9%\"",
            "is below the quota",
        ),
        (
            "quota = 10_000, over_limit = \"grace\"",
            "quota = 10_000, over_limit = \"grace\", grace_max = 9_999",
            "is below the quota",
        ),
        (
            "quota = 10_000, over_limit = \"grace\"",
            "quota = 10_000, over_limit = \"grace\", grace_max = \"twice\"",
            "write a percentage of the quota",
        ),
        (
            "quota = 10_000, over_limit = \"grace\"",
            "quota = 10_000, over_limit = \"grace\", grace_max = \"1000000.1%\"",
            "at most 1000000%",
        ),
        (
            "quota = 3, over_limit = \"hard\"",
            "quota = 3, over_limit = \"hard\", grace_max = \"200%\"",
            "needs over_limit = \"grace\"",
        ),
        (
            "quota = 10_000, over_limit = \"grace\"",
            "quota = \"unlimited\", over_limit = \"grace\", grace_max = \"200%\"",
            "needs over_limit = \"grace\" and a quota",
        ),
        (
            "llm_tokens = { aggregation = \"sum\"",
            "llm_tokens = { aggregation = \"sum\", grace_max = \"50%\"",
            "is below the quota",
        ),
        (
            "quota = 10_000, ",
            "quota = \"123456789012345678901\", ",
            "at most 20 digits",
        ),
        ("quota = 10_000, ", "quota = \"0.00001\", ", "and 4 after"),
        ("\"0.00001\"", "\"1234567890123\"", "at most 12 digits"),
        ("\"0.00001\"", "\"0.0000000000001\"", "at most 12 digits"),
    ] {
        let error = broken(from, to);
        assert!(
            error.contains(problem) && error.contains("plans.toml, line "),
            "{error}"
        );
    }
}

#[test]
fn metrics_have_names_for_people() {
    let catalogue = parse(BUILT_IN).unwrap();
    let named = catalogue.metric_name("storage_gb").unwrap();
    assert_eq!(
        (named.name.as_str(), named.unit.as_deref()),
        ("Storage", Some("GB"))
    );
    assert_eq!(catalogue.given_name("unknown"), None);
    assert!(!catalogue.automatic_tax());
    let taxed = parse(&format!("{BUILT_IN}\n[tax]\nautomatic = true\n")).unwrap();
    assert!(taxed.automatic_tax());
    for (written, problem) in [
        (
            "name = \" \"",
            "the name of \"api_calls\" must have 1 to 100 characters",
        ),
        (
            "unit = \"call\"",
            "the unit of \"api_calls\" needs a name beside it",
        ),
        (
            "name = \"Calls\", unit = \"thirteen char\"",
            "the unit of \"api_calls\" must have 1 to 12 characters",
        ),
        ("name = \"LLM tokens\"", "have one name, \"LLM tokens\""),
    ] {
        let given = "name = \"API calls\", unit = \"call\"";
        let error = parse(&BUILT_IN.replacen(given, written, 1)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains(", line "), "{error}");
    }
    let wrong = parse(&format!("{BUILT_IN}\n[tax]\nautomatic = \"yes\"\n")).unwrap_err();
    assert!(wrong.to_string().contains("line"), "{wrong}");
}
