//! All that match: counted, asked about, done in the background, watched and stopped.

use reqwest::Method;
use uuid::Uuid;

use super::{Browser, Desk, OPERATOR, Page, READER, is_ok};
use crate::support::TestService;
use crate::support::service::Options;
use crate::webhooks::bulk::dead_letters;

const LETTERS: &str = "/console/dead-letters";
pub const BULK: &str = "/console/bulk-actions";

impl Browser<'_> {
    /// Asks about all that match `filter`, says yes, and waits for the end.
    async fn does_all(&mut self, ask: &str, filter: &[(&str, &str)], question: &str) -> Page {
        let form = [filter, &[("do", ask)]].concat();
        let asked = self.post(BULK, &form).await;
        assert!(asked.text.contains(question), "{question}: {}", asked.text);
        let begun = self.says_yes(&asked, filter).await;
        assert_eq!(begun.status, 303, "{}", begun.text);
        self.sees_the_end(&begun.location).await
    }

    async fn says_yes(&mut self, asked: &Page, filter: &[(&str, &str)]) -> Page {
        let (through, act) = (asked.through(), asked.after("name=\"act\" value=\""));
        let yes = [("through", &*through), ("act", &*act), ("do", "start")];
        self.post_to(&asked.once(), &[filter, &yes].concat()).await
    }

    async fn sees_the_end(&mut self, path: &str) -> Page {
        for _ in 0..1_500 {
            let page = self.get(&format!("{path}/progress")).await;
            is_ok(&page);
            if !page.text.contains("data-live") {
                return self.get(path).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{path} does not end");
    }
}

#[tokio::test]
async fn all_that_match_are_counted_and_asked_about_and_no_others_are_touched() {
    let desk = Desk::open().await;
    desk.deliver("cus_2", &["evt_1", "evt_2"]).await;
    desk.deliver("cus_3", &["evt_3"]).await;
    desk.service
        .db
        .execute(
            "UPDATE webhook_dead_letter_queue SET error_message = 'another (fault) [a.b*]'
              WHERE stripe_event_id = 'evt_2'",
        )
        .await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser.get(LETTERS).await;
    is_ok(&page);
    assert!(
        page.text.contains("another (fault) [a.b*]"),
        "{}",
        page.text
    );
    let filter = [("reason", "another (fault) [a.b*]")];
    let asked = [("reason", "another (fault) [a.b*]"), ("do", "ask-discard")];
    is_ok(&browser.post(BULK, &asked).await);
    assert_eq!(desk.dead_letters().await, 3, "it asks first");
    let page = browser
        .does_all("ask-discard", &filter, "Discard 1 dead letter?")
        .await;
    assert!(page.text.contains("1 of 1: 1 succeeded"), "{}", page.text);
    assert_eq!(desk.dead_letters().await, 2);

    // The two that are left wait for different customers, and failed for one reason.
    let error = "SELECT error_message FROM webhook_dead_letter_queue ORDER BY 1 LIMIT 1";
    let error = desk.service.db.value(error).await;
    desk.service.db.organization("cus_2").await;
    let filter = [("reason", &*error)];
    let page = browser
        .does_all("ask-replay", &filter, "Replay 2 dead letters?")
        .await;
    assert!(
        page.text.contains("2 of 2: 1 succeeded, 1 failed"),
        "{}",
        page.text
    );
    assert!(
        page.text.contains("evt_3"),
        "the one that failed: {}",
        page.text
    );
    assert_eq!(desk.dead_letters().await, 1);
    assert_eq!(desk.entries("bulk_action_started", OPERATOR).await, 2);
}

#[tokio::test]
async fn what_was_counted_is_done_once_however_often_the_form_is_sent() {
    let desk = Desk::open().await;
    desk.deliver("cus_2", &["evt_1", "evt_2"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let asked = browser.post(BULK, &[("do", "ask-discard")]).await;
    assert!(
        asked.text.contains("Discard 2 dead letters?"),
        "{}",
        asked.text
    );
    desk.deliver("cus_3", &["evt_3"]).await;
    let first = browser.says_yes(&asked, &[]).await;
    let again = browser.says_yes(&asked, &[]).await;
    assert_eq!((first.status, &first.location), (303, &again.location));
    browser.sees_the_end(&first.location).await;
    assert_eq!(
        desk.dead_letters().await,
        1,
        "what came later was not counted"
    );
    assert_eq!(desk.service.db.count("webhook_bulk_actions").await, 1);

    let act = ("act", "discard_dead_letters");
    let no_key = browser.post_to(BULK, &[act, ("do", "start")]).await;
    assert_eq!(no_key.status, 403, "{}", no_key.text);
    let not_counted = browser.post(BULK, &[act, ("do", "start")]).await;
    assert_eq!(not_counted.status, 400, "{}", not_counted.text);
    assert_eq!(desk.dead_letters().await, 1);
}

#[tokio::test]
async fn processed_events_are_replayed_by_their_filter() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1", "evt_2"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let list = "/console/webhooks?status=processed&type=customer.subscription.created&since=2026-01-01T00:00:00Z";
    let page = browser.get(list).await;
    is_ok(&page);
    assert!(page.text.contains("ask-events"), "{}", page.text);
    let filter = [("type", "customer.subscription.created")];
    let page = browser
        .does_all("ask-events", &filter, "Replay 2 processed events?")
        .await;
    assert!(page.text.contains("2 of 2: 2 succeeded"), "{}", page.text);
    let faulty = browser
        .post(BULK, &[("since", "yesterday"), ("do", "ask-events")])
        .await;
    assert_eq!(faulty.status, 400, "{}", faulty.text);
    assert!(faulty.text.contains("expected a time"), "{}", faulty.text);
}

#[tokio::test]
async fn one_that_waits_is_stopped_and_a_second_stop_says_why_it_does_nothing() {
    let desk = Desk::with(Options {
        workers: 0,
        ..Options::default()
    })
    .await;
    dead_letters(&desk.service.db, "cus_2", 0..3).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let asked = browser.post(BULK, &[("do", "ask-replay")]).await;
    let begun = browser.says_yes(&asked, &[]).await;
    let page = browser.get(&begun.location).await;
    is_ok(&page);
    assert!(page.text.contains("data-live"), "{}", page.text);
    assert!(page.policy.contains("script-src 'self'"), "{}", page.policy);
    let mut reader = Browser::of(&desk.service, READER).await;
    let seen = reader.get(&begun.location).await;
    is_ok(&seen);
    assert!(!seen.text.contains("value=\"stop\""), "{}", seen.text);
    let stop = format!("{}/stop", begun.location);
    let refused = reader.post(&stop, &[("do", "stop")]).await;
    assert_eq!(refused.status, 403, "{}", refused.text);

    let stopped = browser.post(&stop, &[("do", "stop")]).await;
    assert_eq!(stopped.status, 303, "{}", stopped.text);
    let page = browser.get(&begun.location).await;
    assert!(page.text.contains("Stopped"), "{}", page.text);
    assert!(!page.text.contains("value=\"stop\""), "{}", page.text);
    let again = browser.post(&stop, &[("do", "stop")]).await;
    assert_eq!(again.status, 409, "{}", again.text);
    assert!(again.text.contains("It was not stopped"), "{}", again.text);
    assert_eq!(desk.dead_letters().await, 3);
    assert_eq!(desk.entries("bulk_action_stopped", OPERATOR).await, 1);
}

#[tokio::test]
async fn nobody_sees_or_moves_one_without_a_session() {
    let service = TestService::start().await;
    let mut nobody = Browser::new(&service);
    let one = format!("{BULK}/{}", Uuid::now_v7());
    for path in [BULK.to_owned(), one.clone(), format!("{one}/progress")] {
        let page = nobody.get(&path).await;
        assert_eq!(page.status, 303, "{path}: {}", page.text);
    }
    for path in [BULK.to_owned(), format!("{one}/stop")] {
        let form = [("do", "stop"), ("csrf", "0")];
        let page = nobody.send(Method::POST, &path, &form).await;
        assert_eq!(page.status, 303, "{path}: {}", page.text);
    }
}
