use std::time::Duration;

use reqwest::Url;
use valuecanvas_billing::stripe::client::{Client, ErrorKind, Params, Patience, SecretKey};

use super::Stripe;

fn ada() -> Params {
    Params::new()
        .set("name", "Ada")
        .set("metadata[organization_id]", "one")
}

/// Whatever happens to the first attempt, no second customer is made.
#[tokio::test]
async fn a_call_that_failed_is_repeated_as_the_same_call() {
    for fault in [
        "server_error",
        "server_error_after_acting",
        "drop",
        "drop_after_acting",
        "timeout",
        "lock_timeout",
        "rate_limit",
    ] {
        let stripe = Stripe::start().await;
        let client = stripe.client();
        let strikes = [("fault", fault), ("next", "1"), ("retry_after", "0")];
        let strikes = if fault == "rate_limit" {
            &strikes[..]
        } else {
            &strikes[..2]
        };
        stripe.fault(strikes).await;
        let result = client.create_customer(&ada(), "key-1").await;
        // A key replays its first answer, a failure included.
        if fault.starts_with("server_error") {
            let error = result.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Server);
            assert!(error.may_have_acted() && error.request_id.is_some());
        } else {
            let customer = result.unwrap_or_else(|e| panic!("{fault}: {e}"));
            assert_eq!(customer.metadata["organization_id"], "one");
        }
        assert_eq!(stripe.struck().await, 1, "{fault}");
        let made = client.customers(None).await.unwrap().len();
        assert_eq!(made, usize::from(fault != "server_error"), "{fault}");
    }
}

#[tokio::test]
async fn patience_ends_and_doubt_is_told() {
    let stripe = Stripe::start().await;
    let client = stripe.client();
    stripe.fault(&[("fault", "drop"), ("every", "1")]).await;
    let error = client.create_customer(&ada(), "key-1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unanswered);
    assert!(error.may_have_acted() && error.is_outage());
    assert_eq!(stripe.struck().await, 4, "attempts");
}

#[tokio::test]
async fn nobody_there_is_told_apart_from_no_answer() {
    let base = Url::parse("http://127.0.0.1:1").unwrap();
    let patience = Patience {
        attempts: 2,
        pause: Duration::from_millis(1),
        ..Patience::default()
    };
    let client = Client::new(base, SecretKey::new("sk_test_secret"), patience).unwrap();
    let error = client.create_customer(&ada(), "key-1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.is_outage() && !error.may_have_acted());
}

#[tokio::test]
async fn refusals_say_what_stripe_said() {
    let stripe = Stripe::start().await;
    let client = stripe.client();
    let card = Params::new().set("payment_method", "pm_card_chargeDeclinedInsufficientFunds");
    let error = client.create_customer(&card, "key-1").await.unwrap_err();
    assert_eq!(
        (error.kind, error.decline_code.as_deref()),
        (ErrorKind::Card, Some("insufficient_funds"))
    );
    let error = client.subscription("sub_none").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let error = client.subscription("../customers").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let unknown = Params::new().set("colour", "red");
    let error = client.create_customer(&unknown, "key-2").await.unwrap_err();
    assert_eq!(
        (error.kind, error.param.as_deref()),
        (ErrorKind::InvalidRequest, Some("colour"))
    );
    client.create_customer(&ada(), "key-3").await.unwrap();
    let other = Params::new().set("name", "Grace");
    let error = client.create_customer(&other, "key-3").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Idempotency);
}

#[tokio::test]
async fn no_error_and_no_description_shows_the_key() {
    let stripe = Stripe::start().await;
    let client = stripe.client();
    let error = client.subscription("sub_none").await.unwrap_err();
    for text in [
        format!("{client:?}"),
        format!("{error:?}"),
        error.to_string(),
    ] {
        assert!(!text.contains("sk_test_secret"), "{text}");
    }
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let stripe = Stripe::start().await;
    let client = stripe.client();
    for n in 0..205 {
        client
            .create_customer(&ada(), &format!("key-{n}"))
            .await
            .unwrap();
    }
    let customers = client.customers(None).await.unwrap();
    let ids: std::collections::BTreeSet<&str> = customers.iter().map(|c| c.id.as_str()).collect();
    assert_eq!((customers.len(), ids.len()), (205, 205));
}
