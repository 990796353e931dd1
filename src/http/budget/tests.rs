use std::net::SocketAddr;

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
    let budget = budget(5);
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
    for next in [Doing::Idle, Doing::Head, Doing::Body] {
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
    let large = budget.admit(peer(STRANGER)).unwrap();
    assert!(budget.head_grows(&large.0, mib));
    let mut others = Vec::new();
    for _ in 0..8 {
        let other = budget.admit(peer(OTHER)).unwrap();
        assert!(budget.head_grows(&other.0, mib - 1));
        others.push(other);
    }
    assert!(large.0.must_go());
    assert!(budget.heads.load(Ordering::Relaxed) <= limits::HEADS);
    drop((large, others));
    assert_eq!(budget.heads.load(Ordering::Relaxed), 0);
}

fn payer(text: &str) -> Payer {
    Payer::Address(Address::of_peer(peer(text), 0))
}

#[test]
fn a_body_is_counted_until_its_last_byte_is_gone() {
    let budget = budget(1);
    let permit = budget.take(Class::Api, payer(OTHER), 1_000_000).unwrap();
    let body = permit.keep(vec![0; 1_000_000]);
    let part = body.slice(10..20);
    drop(body);
    assert_eq!(budget.share(Class::Api).taken(), 1_000_000);
    drop(part);
    assert_eq!(budget.share(Class::Api).taken(), 0);
}

#[test]
fn each_has_a_share_and_all_have_one() {
    let budget = budget(1);
    let (all, own) = Class::Intake.limits();
    let first = budget.take(Class::Intake, payer(STRANGER), own).unwrap();
    let more = budget.take(Class::Intake, payer(STRANGER), 1).err();
    assert_eq!(more, Some(Shortage::Own));
    let rest: Vec<Permit> = (1..all / own)
        .map(|n| {
            let of = payer(&format!("198.51.100.{n}:1"));
            budget.take(Class::Intake, of, own).unwrap()
        })
        .collect();
    let more = budget
        .take(Class::Intake, payer("198.51.100.99:1"), 1)
        .err();
    assert_eq!(more, Some(Shortage::All));
    let other = budget.take(Class::Api, payer(OTHER), own);
    assert!(other.is_ok(), "of another class");
    drop(first);
    assert!(budget.take(Class::Intake, payer(STRANGER), own).is_ok());
    drop(rest);
}

#[test]
fn a_body_that_does_not_come_gives_way() {
    let budget = budget(1);
    let own = Class::Intake.limits().1;
    let slow = budget.take(Class::Intake, payer(STRANGER), own).unwrap();
    let whole = budget.take(Class::Intake, payer(OTHER), own).unwrap();
    let whole = whole.keep(vec![0; 10]);
    std::thread::sleep(limits::BODY_STALL);
    let next = budget.take(Class::Intake, payer(STRANGER), own);
    assert!(next.is_ok(), "the slow one made room");
    let none = budget.take(Class::Intake, payer(OTHER), own).err();
    assert_eq!(none, Some(Shortage::Own), "a whole body stays");
    drop((slow, next, whole));
    assert_eq!(budget.share(Class::Intake).taken(), 0);
}
