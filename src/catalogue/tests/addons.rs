//! Add-ons in the file, what is wrong with them, and how they add up.

use serde_json::json;

use super::*;

const EXTRA: &str = r#"
[[addons]]
id = "extra"
name = "Extra tokens"
price = { interval = "month", currency = "usd", amount = 2_000, lookup_key = "extra_month" }
quotas = { llm_tokens = 500_000, api_calls = "0.5", user_seats = "unlimited" }
features = { projects = 5 }
max_quantity = 10
"#;
const CARE: &str = r#"
[[addons]]
id = "care"
name = "Care"
price = { interval = "month", currency = "usd", amount = 4_000, lookup_key = "care_month" }
features = { support = "personal", sso = true }
plans = ["standard"]
on_plan_change = "drop"
retired = true
"#;

fn with(addons: &str) -> Result<Catalogue, CatalogueError> {
    parse(&format!("{BUILT_IN}{addons}"))
}

fn bought(list: &[(&str, u32)]) -> Addons {
    let list = list.iter();
    list.map(|(id, number)| ((*id).to_owned(), *number))
        .collect()
}

#[test]
fn addons_add_up_with_the_plan() {
    let catalogue = with(&format!("{EXTRA}{CARE}")).unwrap();
    let sum = |tier: &str, list: &[(&str, u32)]| {
        let plan = catalogue.plan(tier).unwrap().clone();
        catalogue.with_addons(plan, &bought(list))
    };
    let plain = catalogue.plan("standard").unwrap();
    assert_eq!(sum("standard", &[]), *plain);
    let one = sum("standard", &[("extra", 3), ("gone", 9)]);
    let units = |plan: &Plan, metric: &str| plan.quotas[metric].quota;
    assert_eq!(units(&one, "llm_tokens"), Some(Decimal::from(2_500_000)));
    assert_eq!(units(&one, "api_calls"), Some("100001.5".parse().unwrap()));
    assert_eq!(units(&one, "user_seats"), None);
    assert_eq!(units(&one, "storage_gb"), Some(Decimal::from(100)));
    let added = one.quotas["llm_tokens"].added;
    assert_eq!(
        (added.units, added.unlimited),
        (Decimal::from(1_500_000), false)
    );
    assert!(one.quotas["user_seats"].added.unlimited);
    // What was unlimited stays so, and nothing was added.
    let high = sum("enterprise", &[("extra", 1)]);
    assert_eq!(high.quotas["user_seats"].added, Added::default());
    assert_eq!(
        json!(one.features),
        json!({"projects": 35, "support": "business"})
    );
    let both = sum("standard", &[("care", 1), ("extra", 1)]);
    assert_eq!(
        json!(both.features),
        json!({"projects": 25, "sso": true, "support": "personal"})
    );
    // The terms of the plan, and so its version, are the same.
    assert_eq!(plain.digest(), catalogue.plan("standard").unwrap().digest());
    assert_eq!(
        plain.digest(),
        parse(BUILT_IN).unwrap().plan("standard").unwrap().digest()
    );
}

#[test]
fn a_number_that_is_the_most_in_grace_grows_with_the_quota() {
    let text = format!("{BUILT_IN}{EXTRA}").replacen(
        "llm_tokens = { quota = 1_000_000, over_limit = \"overage\", overage_rate = \"0.00001\" }",
        "llm_tokens = { quota = 1_000_000, over_limit = \"grace\", grace_max = 1_200_000 }",
        1,
    );
    let catalogue = parse(&text).unwrap();
    let plan = catalogue.plan("standard").unwrap().clone();
    let plan = catalogue.with_addons(plan, &bought(&[("extra", 2)]));
    let most = GraceCeiling::Quantity(2_200_000.into());
    assert_eq!(plan.quotas["llm_tokens"].grace_max, Some(most));
}

#[test]
fn the_file_says_which_plans_an_addon_goes_with() {
    let catalogue = with(&format!("{EXTRA}{CARE}")).unwrap();
    let sold = |tier: &str| {
        let plan = catalogue.plan(tier).unwrap();
        let sold = catalogue.addons_for(plan).map(|one| one.id.clone());
        sold.collect::<Vec<_>>()
    };
    // The retired one serves on, and is sold no more.
    assert_eq!(sold("free"), Vec::<String>::new());
    assert_eq!(
        (sold("standard"), sold("enterprise")),
        (vec!["extra".to_owned()], vec!["extra".to_owned()])
    );
    let care = catalogue.addon("care").unwrap();
    assert!(care.goes_with(catalogue.plan("standard").unwrap()));
    assert!(!care.goes_with(catalogue.plan("enterprise").unwrap()));
    assert_eq!(care.on_plan_change, OnPlanChange::Drop);
    let used = catalogue.price_use(Some("care_month"), None).unwrap();
    assert_eq!(
        (used.plan_tier(), used.addon.as_deref(), used.is_fee()),
        (None, Some("care"), false)
    );
    assert!(catalogue.plan_of_price(Some("care_month"), None).is_none());
    assert!(catalogue.knows_price(Some("care_month"), None));
    let stored: Addon = serde_json::from_value(json!(care)).unwrap();
    assert_eq!(stored, *care);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn a_mistake_in_addons_is_named_with_its_line() {
    let first = BUILT_IN.matches('\n').count() + 1;
    let seats =
        "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n";
    for (from, to, line, problem) in [
        (
            "id = \"extra\"",
            "id = \"ex tra\"",
            2,
            "needs an id of at most 64 letters",
        ),
        (
            "id = \"extra\"",
            "id = \"care\"",
            9,
            "the add-on \"care\" is listed twice",
        ),
        (
            "name = \"Extra tokens\"",
            "name = \" \"",
            3,
            "must have 1 to 100 characters",
        ),
        ("name = \"Extra tokens\"", "", 1, "missing field `name`"),
        ("max_quantity = 10", "most = 10", 7, "unknown field `most`"),
        (
            "price = { interval = \"month\", currency = \"usd\", amount = 2_000, lookup_key = \"extra_month\" }",
            "",
            2,
            "\"extra\" has no price: write price = ",
        ),
        (
            "lookup_key = \"extra_month\"",
            "lookup_key = \"valuecanvas_standard_monthly\"",
            4,
            "the lookup_key \"valuecanvas_standard_monthly\" is used twice, by the plan \"standard\" \
             and by the add-on \"extra\": give each price one of its own",
        ),
        (
            "lookup_key = \"extra_month\"",
            "lookup_key = \"care_month\"",
            11,
            "is used twice, by the add-on \"extra\" and by the add-on \"care\"",
        ),
        (
            "lookup_key = \"extra_month\"",
            "lookup_key = \"valuecanvas_standard_monthly_api_calls\"",
            0,
            "is that of the usage of \"api_calls\" in \"standard\"",
        ),
        (
            ", lookup_key = \"extra_month\"",
            "",
            2,
            "needs a lookup_key or stripe_price_ids",
        ),
        ("amount = 2_000", "amount = -1", 4, "is negative"),
        (
            "interval = \"month\", currency = \"usd\", amount = 2_000",
            "interval = \"year\", currency = \"usd\", amount = 2_000",
            2,
            "the add-on \"extra\" is sold for usd by the year, and \"standard\" for usd by the \
             month: give it a price for one of those",
        ),
        (
            "llm_tokens = 500_000",
            "tokens = 500_000",
            5,
            "adds to \"tokens\", which is not among [metrics]: those are agent_executions",
        ),
        (
            "llm_tokens = 500_000",
            "llm_tokens = 0",
            5,
            "adds nothing to \"llm_tokens\"",
        ),
        (
            "llm_tokens = 500_000",
            "llm_tokens = -5",
            5,
            "write how much one adds, or \"unlimited\"",
        ),
        (
            "llm_tokens = 500_000",
            "llm_tokens = \"much\"",
            5,
            "is no decimal number",
        ),
        (
            "llm_tokens = 500_000",
            "llm_tokens = true",
            5,
            "a quota must be a number",
        ),
        (
            "llm_tokens = 500_000",
            "llm_tokens = 900_000_000_000_000_000",
            5,
            "10 of the add-on \"extra\" would add more than",
        ),
        (
            "projects = 5",
            "rooms = 5",
            6,
            "\"rooms\" is not among the catalogue's [features]",
        ),
        (
            "projects = 5",
            "projects = 0",
            6,
            "a whole number from 1 up",
        ),
        (
            "projects = 5",
            "sso = false",
            6,
            "an add-on gives it by true",
        ),
        (
            "projects = 5",
            "support = \"\"",
            6,
            "write the word that takes the place of the plan's",
        ),
        (
            "max_quantity = 10",
            "max_quantity = 0",
            7,
            "is a number from 1 to 1000000",
        ),
        (
            "max_quantity = 10",
            "max_quantity = 1_000_001",
            7,
            "is a number from 1 to 1000000",
        ),
        (
            "plans = [\"standard\"]",
            "plans = [\"premium\"]",
            13,
            "names a plan \"premium\"; the plans are free, standard, enterprise",
        ),
        (
            "plans = [\"standard\"]",
            "plans = []",
            13,
            "goes with no plan: name some",
        ),
        (
            "plans = [\"standard\"]",
            "plans = [\"standard\", \"standard\"]",
            13,
            "names \"standard\" twice",
        ),
        (
            "plans = [\"standard\"]",
            "plans = [\"free\"]",
            13,
            "cannot go with \"free\", which is not paid through Stripe",
        ),
        (
            "on_plan_change = \"drop\"",
            "on_plan_change = \"stay\"",
            14,
            "`keep` or `drop`",
        ),
    ] {
        let addons = format!("{EXTRA}{}", CARE.trim_start_matches('\n'));
        assert!(addons.contains(from), "{from}");
        let error = with(&addons.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(problem), "{to}: {error}");
        if line > 0 {
            let at = format!("plans.toml, line {}: ", first + line);
            assert!(error.contains(&at), "{to}: {error}, and not {at}");
        }
    }
    let quota = "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n";
    let text = BUILT_IN.replacen(quota, "", 1);
    let text = text.replacen("trial_days_max = 30\n", seats, 1);
    let error = parse(&format!("{text}{EXTRA}")).unwrap_err().to_string();
    assert!(
        error.contains("whose limit in \"standard\" are the seats that are bought"),
        "{error}"
    );
}
