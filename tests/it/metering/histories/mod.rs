//! Usage is billed once, in the period that it was used in, whatever moves the
//! period, and however late we hear of it: random histories, after which what was
//! counted, what the stand-in billed, and what our API shows are compared.

mod books;
mod party;
mod stage;

use futures_util::future::join_all;
use party::Party;
use stage::Stage;

use crate::support::dice::Dice;

/// How many organizations live beside each other.
const BESIDE: u64 = 24;
const ROUNDS: usize = 10;

/// `VCB_CASES` raises the number of histories, `VCB_SEED` tells the first.
fn setting(name: &str, default: u64) -> u64 {
    let asked = std::env::var(name).ok();
    asked.map_or(default, |text| text.parse().expect("it is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_billed_once_in_the_period_that_it_was_used_in() {
    let (cases, first) = (setting("VCB_CASES", 16), setting("VCB_SEED", 1));
    let mut faults = Vec::new();
    let mut from = first;
    while from < first + cases {
        let until = (from + BESIDE).min(first + cases);
        faults.extend(play(from..until).await);
        from = until;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Plays a history for each seed, and says what is wrong.
async fn play(seeds: std::ops::Range<u64>) -> Vec<String> {
    let mut dice = Dice::new(seeds.start);
    let mut stage = Stage::set().await;
    let mut parties = Vec::new();
    for seed in seeds {
        parties.push(Party::join(&stage, seed).await);
    }
    stage.deliver_all(&mut dice).await;
    join_all(parties.iter_mut().map(|party| party.remember(&stage))).await;
    for _ in 0..ROUNDS {
        let now = stage::next_second().await;
        join_all(parties.iter_mut().map(|party| party.live(&stage, now))).await;
        stage.deliver(&mut dice).await;
        if dice.one_in(3) {
            stage.report().await;
        }
        if dice.one_in(8) {
            stage.restart().await;
        }
    }
    let now = stage::next_second().await;
    join_all(parties.iter_mut().map(|party| party.tick(&stage, now))).await;
    stage.deliver_all(&mut dice).await;
    let report = stage.report().await;
    let mut faults = Vec::new();
    for party in &mut parties {
        let found = books::compare(&stage, party, &report).await;
        if !found.is_empty() {
            faults.push(format!(
                "VCB_CASES=1 VCB_SEED={} (of those beside it)\n  {}\n wrong:\n  {}",
                party.seed,
                party.log.join("\n  "),
                found.join("\n  ")
            ));
        }
    }
    faults
}
