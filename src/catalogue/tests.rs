//! Reading the file, and naming what is wrong in it.

use super::*;

mod addons;
mod steps;

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
            "name = \"Standard\"",
            "name = \"Standard\"\nallowance_period = \"week\"",
            "line 95: the allowance_period of \"standard\" is \"week\"; expected \"month\" or \"billing\"",
        ),
        (
            "name = \"Standard\"",
            "name = \"Standard\"\nallowance_period = 30",
            "the allowance_period of \"standard\" is 30; expected \"month\" or \"billing\"",
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

/// Standard with these lines in place of its price.
fn standard_with(lines: &str) -> Result<Catalogue, CatalogueError> {
    let price = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
    assert!(BUILT_IN.contains(price));
    parse(&BUILT_IN.replacen(price, lines, 1))
}

const USD_AND_EUR: &str = "
[[plans.prices]]
interval = \"year\"
currency = \"EUR\"
amount = 90_000
lookup_key = \"standard_eur_year\"

[[plans.prices]]
interval = \"month\"
currency = \"usd\"
amount = 9_900
lookup_key = \"valuecanvas_standard_monthly\"
";

/// Standard without overage, so that it needs no rates.
fn without_rates(text: &str) -> String {
    let mut text = text.to_owned();
    for rate in ["0.00001", "0.10", "0.001", "0.50", "5.00"] {
        let overage = format!("over_limit = \"overage\", overage_rate = \"{rate}\"");
        assert!(text.contains(&overage));
        text = text.replacen(&overage, "over_limit = \"hard\"", 1);
    }
    text
}

#[test]
fn a_plan_is_the_same_at_each_of_its_prices_but_for_what_it_costs() {
    let rates = |rate: &str| format!("{{ usd = \"{rate}\", eur = \"1{rate}\" }}");
    let price = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\ntrial_days_max = 30\n";
    let mut text = BUILT_IN.replacen(price, USD_AND_EUR, 1);
    for rate in ["0.00001", "0.10", "0.001", "0.50", "5.00"] {
        text = text.replacen(&format!("\"{rate}\""), &rates(rate), 1);
    }
    let catalogue = parse(&text).unwrap();
    let plan = catalogue.plan("standard").unwrap();
    // The free plan is in dollars.
    assert_eq!(plan.price.point(), ("usd", Interval::Month));
    let yearly = plan.at("eur", Interval::Year).unwrap();
    assert_eq!(yearly.price.amount, 90_000);
    let calls = &yearly.quotas["api_calls"];
    assert_eq!(calls.overage_rate.unwrap().to_string(), "10.001");
    assert_eq!(calls.other_rates["usd"].to_string(), "0.001");
    assert_eq!(plan.at("usd", Interval::Year), None);
    assert_eq!(yearly.at("usd", Interval::Month).as_ref(), Some(plan));
    assert_eq!(yearly.digest(), plan.digest());
    assert_eq!(yearly.billed_digest(), plan.billed_digest());
    let used = catalogue.price_use(Some("standard_eur_year"), None);
    assert_eq!(used, Some(PriceUse::fee("standard")));
    let used = catalogue.price_use(Some("standard_eur_year_api_calls"), None);
    assert_eq!(used, Some(PriceUse::usage("standard", "api_calls")));
    // What is paid elsewhere counts as the nearest price.
    assert_eq!(plan.paid_in(Some("eur"), Some(Interval::Month)), yearly);
    assert_eq!(&plan.paid_in(Some("gbp"), None), plan);
}

#[test]
fn the_order_of_prices_in_the_file_makes_no_difference() {
    let mut blocks: Vec<&str> = USD_AND_EUR.split("[[").skip(1).collect();
    blocks.reverse();
    let turned = format!("\n[[{}", blocks.join("[["));
    let digest = |prices: &str| {
        let price = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\ntrial_days_max = 30\n";
        let text = without_rates(&BUILT_IN.replacen(price, prices, 1));
        let catalogue = parse(&text).unwrap();
        catalogue.plan("standard").unwrap().clone()
    };
    assert_eq!(digest(USD_AND_EUR), digest(&turned));
}

#[test]
fn the_digest_of_one_price_is_as_it_always_was() {
    // Stored versions have these.
    let catalogue = parse(BUILT_IN).unwrap();
    let plan = catalogue.plan("standard").unwrap();
    assert_eq!(
        (plan.digest(), plan.billed_digest()),
        (
            "96823b0355d09d2c34735870970a4fdb".to_owned(),
            "2ab44d706d47b5491d205dca7f75ea16".to_owned()
        )
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn a_mistake_in_prices_is_named_with_its_line() {
    let key = "lookup_key = \"valuecanvas_standard_monthly\"";
    let price =
        format!("price = {{ amount = 9_900, currency = \"usd\", interval = \"month\", {key} }}\n");
    let usd = |interval: &str, more: &str| {
        format!("{{ amount = 1, currency = \"usd\", interval = \"{interval}\", {more} }}")
    };
    let eur = "{ amount = 1, currency = \"eur\", interval = \"month\", lookup_key = \"eur\" }";
    let file = include_str!("../../config/plans.toml");
    let first = 1 + file
        .lines()
        .take_while(|line| *line != "tier = \"standard\"")
        .count();
    for (lines, problem, below) in [
        (String::new(), "\"standard\" has no price", 0),
        ("prices = []\n".to_owned(), "\"standard\" has no price", 0),
        (
            format!("{price}prices = [{eur}]\n"),
            "has both price and [[plans.prices]]",
            3,
        ),
        (
            format!(
                "prices = [{}, {}]\n",
                usd("month", key),
                usd("month", "lookup_key = \"b\"")
            ),
            "has two prices for usd by the month",
            2,
        ),
        (
            format!("prices = [{}, {}]\n", usd("month", key), usd("year", key)),
            "the lookup_key \"valuecanvas_standard_monthly\" is used twice",
            2,
        ),
        (
            format!("prices = [{}, {}]\n", usd("month", key), usd("year", "")),
            "for usd by the year needs a lookup_key or stripe_price_ids",
            0,
        ),
        (
            format!("prices = [{}, {eur}]\n", usd("month", key)),
            "is sold in eur, usd, and this rate is in one currency",
            7,
        ),
        (
            format!("price = {}\n", usd("week", key)),
            "unknown variant `week`, expected `month` or `year`",
            2,
        ),
        (
            "price = { amount = 1, currency = \"dollar\", interval = \"month\" }\n".to_owned(),
            "the currency \"dollar\" is no ISO 4217 code",
            2,
        ),
        (
            "price = { amount = 1, interval = \"month\" }\n".to_owned(),
            "says no currency",
            2,
        ),
        (
            "price = { amount = 1, currency = \"usd\" }\n".to_owned(),
            "says no interval",
            2,
        ),
        (
            format!(
                "price = {}\n",
                usd("month", "lookup_key = \"valuecanvas_enterprise\"")
            ),
            "",
            0,
        ),
    ] {
        let parsed = standard_with(&lines);
        if problem.is_empty() {
            assert!(parsed.is_ok(), "{:?}", parsed.err());
            continue;
        }
        let error = parsed.unwrap_err().to_string();
        let line = first + below;
        assert!(
            error.contains(problem) && error.contains(&format!("plans.toml, line {line}: ")),
            "{lines}: {error}"
        );
    }
    for (rate, problem) in [
        (
            "{ usd = \"0.1\", eur = \"0.1\" }",
            "has a rate in eur, and no price",
        ),
        ("{ eur = \"0.1\" }", "has a rate in eur, and no price"),
        ("{ usd = \"-1\" }", "cannot be negative"),
        ("{ dollar = \"1\" }", "no ISO 4217 code"),
        ("{}", "is sold in usd, and has no rate in it"),
        ("5", "a rate must be a text such as"),
    ] {
        let error = parse(&BUILT_IN.replacen("\"0.10\"", rate, 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(problem) && error.contains("line "),
            "{error}"
        );
    }
    // A fee whose lookup key is that of another plan's usage.
    let taken = BUILT_IN.replacen("enterprise_monthly", "standard_monthly_api_calls", 1);
    let error = parse(&taken).unwrap_err().to_string();
    assert!(
        error.contains("is that of the usage of \"api_calls\""),
        "{error}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn a_mistake_in_seats_is_named_with_its_line() {
    let quota = "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n";
    let trial = "trial_days_max = 30\n";
    let with = |seats: &str| {
        let text = BUILT_IN.replacen(quota, "", 1);
        parse(&text.replacen(trial, &format!("\n[plans.seats]\n{seats}\n"), 1))
    };
    let licensed = "metric = \"user_seats\"\nmode = \"licensed\"\n";
    let metered = "metric = \"user_seats\"\nmode = \"metered\"\n";
    let standard = with(licensed).unwrap().plan("standard").unwrap().clone();
    assert_eq!(standard.quotas["user_seats"].quota, Some(Decimal::ONE));
    assert_eq!(
        standard.with_seats(Some(7)).quotas["user_seats"].quota,
        Some(Decimal::from(7))
    );
    let beside = format!("{licensed}included = 3\nprice = {{ amount = 1_500 }}");
    let catalogue = with(&beside).unwrap();
    let key = Some("valuecanvas_standard_monthly_seats");
    assert_eq!(
        catalogue.price_use(key, None),
        Some(PriceUse::seats("standard"))
    );
    assert!(catalogue.plan_of_price(key, None).is_none());
    for (seats, problem) in [
        (
            "metric = \"chairs\"\nmode = \"licensed\"".to_owned(),
            "\"chairs\" is not among [metrics]",
        ),
        (
            "metric = \"api_calls\"\nmode = \"licensed\"".to_owned(),
            "seats are a level: give \"api_calls\" aggregation = \"last\"",
        ),
        (
            "metric = \"user_seats\"\nmode = \"rented\"".to_owned(),
            "unknown variant `rented`, expected `licensed` or `metered`",
        ),
        (format!("{licensed}included = -1"), "from 0 to 1000000"),
        (
            format!("{licensed}included = 1_000_001"),
            "from 0 to 1000000",
        ),
        (
            format!("{licensed}price = \"5.00\""),
            "the price of a licensed seat is like a plan's",
        ),
        (
            format!("{licensed}price = {{ amount = -5 }}"),
            "is negative",
        ),
        (
            format!("{licensed}price = {{ amount = 5, currency = \"eur\" }}"),
            "for which the plan is not sold: it is sold for usd by the month",
        ),
        (
            format!("{licensed}price = {{ amount = 5, interval = \"week\" }}"),
            "the price of a seat must be like",
        ),
        (
            format!("{licensed}price = []"),
            "its seats have no price for that",
        ),
        (metered.to_owned(), "metered seats need a price"),
        (
            format!("{metered}price = {{ amount = 5 }}"),
            "is a rate in the major unit",
        ),
    ] {
        let error = with(&seats).unwrap_err().to_string();
        assert!(
            error.contains(problem) && error.contains("plans.toml, line "),
            "{error}"
        );
    }
    // Said twice, and where nothing is sold.
    let twice = BUILT_IN.replacen(trial, &format!("\n[plans.seats]\n{licensed}"), 1);
    let error = parse(&twice).unwrap_err().to_string();
    assert!(
        error.contains("[plans.seats] is the quota of \"user_seats\""),
        "{error}"
    );
    let free = BUILT_IN.replacen(
        "name = \"Free\"\n",
        "name = \"Free\"\nseats = { metric = \"user_seats\", mode = \"licensed\" }\n",
        1,
    );
    let error = parse(&free).unwrap_err().to_string();
    assert!(error.contains("is not sold through Stripe"), "{error}");
}
