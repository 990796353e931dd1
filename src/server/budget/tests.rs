use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use super::*;

fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn budget(most: usize) -> Arc<Budget> {
    Budget::new(most, 0)
}

const STRANGER: &str = "192.0.2.66:1";
const OTHER: &str = "198.51.100.1:1";

#[test]
fn whoever_comes_takes_the_place_of_the_least_worthy() {
    let budget = budget(Doing::ALL.len());
    let places: Vec<Place> = Doing::ALL
        .into_iter()
        .map(|doing| {
            let place = budget.admit(peer(OTHER)).unwrap();
            place.0.turns_to(doing);
            place
        })
        .collect();
    let told = || -> Vec<Doing> {
        let told = places.iter().filter(|place| place.0.must_go());
        told.map(|place| place.0.doing()).collect()
    };
    let mut strangers = Vec::new();
    let mut gone = Vec::new();
    for next in [Doing::Idle, Doing::Head, Doing::Body, Doing::Waiting] {
        let stranger = budget.admit(peer(STRANGER)).expect("there is a place");
        stranger.0.answers();
        strangers.push(stranger);
        gone.insert(0, next);
        assert_eq!(told(), gone);
    }
    assert!(
        budget.admit(peer(STRANGER)).is_none(),
        "a delivery has its grace, and what is answered stays"
    );
    assert!(!places[0].0.must_go() && !places[1].0.must_go());
}

#[test]
fn an_address_that_has_many_loses_first() {
    let many = limits::MANY_OF_ADDRESS as usize;
    let budget = budget(many + 1);
    let idle = budget.admit(peer(OTHER)).unwrap();
    idle.0.turns_to(Doing::Idle);
    let mut strangers: Vec<Place> = (0..many)
        .map(|_| budget.admit(peer(STRANGER)).unwrap())
        .collect();
    for _ in 0..3 * many {
        strangers.push(budget.admit(peer(STRANGER)).expect("there is a place"));
    }
    assert!(!idle.0.must_go(), "one of few, though it is idle");
    assert!(budget.lock().len() <= many + 1);
    let gone = strangers.iter().filter(|place| place.0.must_go()).count();
    assert_eq!(gone, 3 * many);
}

#[test]
fn an_address_has_a_share_of_the_connections() {
    let budget = budget(limits::CONNECTIONS);
    let own = limits::CONNECTIONS_OF_ADDRESS;
    let places: Vec<Place> = (0..own + 10)
        .map(|_| budget.admit(peer(STRANGER)).unwrap())
        .collect();
    assert_eq!(budget.lock().len(), own);
    drop(places);
    assert_eq!(budget.lock().len(), 0);
    let local: Vec<Place> = (0..own + 10)
        .map(|_| budget.admit(peer("127.0.0.1:1")).unwrap())
        .collect();
    assert_eq!(budget.lock().len(), local.len(), "stands for many");
}

#[test]
fn heads_share_what_there_is_and_the_largest_gives_way() {
    let budget = budget(100);
    let mib = 1024 * 1024;
    let grows = |place: &Place, length| budget.head_grows(&place.0, length);
    let large = budget.admit(peer(STRANGER)).unwrap();
    assert_eq!(grows(&large, mib), Growth::Now);
    let mut others = Vec::new();
    for _ in 0..7 {
        let other = budget.admit(peer(OTHER)).unwrap();
        assert_eq!(grows(&other, mib - 1), Growth::Now);
        others.push(other);
    }
    let next = budget.admit(peer(OTHER)).unwrap();
    assert_eq!(grows(&next, mib - 1), Growth::Soon);
    assert!(large.0.must_go());
    assert_eq!(grows(&large, mib), Growth::Now, "it has as much");
    assert_eq!(grows(&large, mib + 1), Growth::Never);
    assert_eq!(grows(&next, mib - 1), Growth::Soon, "it is not gone yet");
    drop(large);
    assert_eq!(grows(&next, mib - 1), Growth::Now);
    assert!(budget.heads.load(Ordering::Relaxed) <= limits::HEADS);
    assert!(others.iter().all(|other| !other.0.must_go()));
    drop((next, others));
    assert_eq!(budget.heads.load(Ordering::Relaxed), 0);
}

fn payer(text: &str) -> Payer {
    Payer::Address(Address::of_peer(peer(text), 0))
}

async fn is_pending(mut future: Pin<&mut impl Future>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[tokio::test]
async fn a_body_is_counted_until_its_last_byte_is_gone() {
    let budget = budget(1);
    let taking = budget.take(Class::Api, payer(OTHER), 1_000_000);
    let body = taking.await.unwrap().keep(vec![0; 1_000_000]);
    let part = body.slice(10..20);
    drop(body);
    assert_eq!(budget.taken(Class::Api), 1_000_000);
    drop(part);
    assert_eq!(budget.taken(Class::Api), 0);
}

#[tokio::test]
async fn each_has_a_share_and_all_have_one() {
    let budget = budget(1);
    let (all, own) = Class::Intake.limits();
    let enter = |of: &str, bytes| budget.enter(Class::Intake, payer(of), bytes);
    let first = budget.take(Class::Intake, payer(STRANGER), own);
    let first = first.await.unwrap();
    assert_eq!(enter(STRANGER, 1).err(), Some(Shortage::Own));
    let mut rest = Vec::new();
    for n in 1..all / own {
        let of = payer(&format!("198.51.100.{n}:1"));
        rest.push(budget.take(Class::Intake, of, own).await.unwrap());
    }
    let more = enter("198.51.100.99:1", 1).err();
    assert_eq!(more, Some(Shortage::All));
    let other = budget.take(Class::Api, payer(OTHER), own).await;
    assert!(other.is_ok(), "of another class");
    drop(first);
    assert!(enter(STRANGER, own).is_ok());
}

#[tokio::test]
async fn a_body_that_does_not_come_gives_way() {
    let budget = budget(1);
    let (all, own) = Class::Intake.limits();
    let whole = budget.take(Class::Intake, payer(OTHER), own).await.unwrap();
    let whole = whole.keep(vec![0; 10]);
    let mut slow = Vec::new();
    for n in 1..all / own {
        let of = payer(&format!("203.0.113.{n}:9"));
        slow.push(budget.take(Class::Intake, of, own).await.unwrap());
    }
    std::thread::sleep(limits::BODY_STALL);
    let none = budget.enter(Class::Intake, payer(OTHER), own).err();
    assert_eq!(none, Some(Shortage::Own), "a whole body stays");
    let next = budget.take(Class::Intake, payer(STRANGER), own);
    let mut next = pin!(next);
    assert!(is_pending(next.as_mut()).await);
    assert!(
        budget.taken(Class::Intake) > all,
        "the slow one has its bytes until it is gone"
    );
    slow.clear();
    let next = next.await;
    assert!(next.is_ok(), "a slow one made room");
    drop((whole, next));
    assert_eq!(budget.taken(Class::Intake), 0);
}

#[tokio::test]
async fn a_body_that_grows_waits_for_those_that_give_way() {
    let budget = budget(1);
    let (all, own) = Class::Intake.limits();
    let mut growing = budget
        .take(Class::Intake, payer(OTHER), own / 2)
        .await
        .unwrap();
    let mut slow = Vec::new();
    for n in 1..=2 * (all / own) - 1 {
        let of = payer(&format!("203.0.113.{n}:9"));
        slow.push(budget.take(Class::Intake, of, own / 2).await.unwrap());
    }
    std::thread::sleep(limits::BODY_STALL);
    growing.progress.receives(1_000_000, budget.now_ms());
    {
        let mut more = pin!(growing.grow(own));
        assert!(is_pending(more.as_mut()).await);
        slow.clear();
        assert!(more.await.is_ok());
    }
    assert_eq!(budget.taken(Class::Intake), own);
}

#[tokio::test]
async fn what_waits_gives_way_and_what_goes_on_does_not() {
    let budget = budget(1);
    let place = budget.admit(peer(OTHER)).unwrap();
    place.0.answers();
    assert_eq!(place.0.waits_for(async { 1 }).await, 1);
    assert_eq!(place.0.doing(), Doing::Answering, "nothing was waited for");
    let (wake, woken) = tokio::sync::oneshot::channel();
    let mut waiting = Box::pin(place.0.waits_for(woken));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    assert_eq!(place.0.doing(), Doing::Waiting);
    wake.send(()).unwrap();
    waiting.await.unwrap();
    assert!(budget.admit(peer(STRANGER)).is_none(), "it goes on");
    let mut waiting = Box::pin(place.0.waits_for(std::future::pending::<()>()));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    assert!(budget.admit(peer(STRANGER)).is_some());
    assert!(place.0.must_go());
}
