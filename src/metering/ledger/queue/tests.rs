use super::*;
use crate::metering::ledger::NewEvent;

fn organization(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn batch(events: usize) -> Op {
    let event = NewEvent {
        id: "a".to_owned(),
        metric: "api_calls".to_owned(),
        quantity: 1.into(),
        occurred_at: None,
        metadata: None,
    };
    Op::Record(vec![event; events])
}

/// The next group: each request's organization, and how many events it has.
fn group(queue: &Arc<Queue>) -> Vec<(u128, usize)> {
    let requests = queue.state().next_group(Instant::now());
    requests
        .iter()
        .map(|request| (request.organization_id.as_u128(), request.load().events))
        .collect()
}

fn push(queue: &Arc<Queue>, number: u128, events: usize) -> Result<(), Rejection> {
    queue.push(organization(number), batch(events)).map(drop)
}

#[test]
fn a_group_takes_of_each_organization_in_turn_and_of_each_in_order() {
    let queue = Queue::new();
    for events in [1, 2, 3] {
        push(&queue, 1, events).unwrap();
    }
    push(&queue, 2, 1).unwrap();
    push(&queue, 3, 1).unwrap();
    let expected = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)];
    assert_eq!(group(&queue), expected);
}

#[test]
fn a_flood_of_one_leaves_the_next_group_to_others() {
    let queue = Queue::new();
    for _ in 0..2_000 {
        push(&queue, 1, 1).unwrap();
    }
    assert_eq!(group(&queue).len(), LARGEST_GROUP);
    push(&queue, 2, 1).unwrap();
    assert!(group(&queue)[..2].contains(&(2, 1)));
}

#[test]
fn small_requests_come_before_others_batches_which_come_in_every_other_group() {
    let queue = Queue::new();
    for _ in 0..4 {
        push(&queue, 1, 1_000).unwrap();
    }
    for _ in 0..3 {
        push(&queue, 2, 1).unwrap();
        assert_eq!(group(&queue), [(2, 1)]);
        push(&queue, 2, 1).unwrap();
        assert_eq!(group(&queue), [(2, 1), (1, 1_000)]);
    }
    // One batch at a time, while small ones are reckoned with.
    assert_eq!(group(&queue), [(1, 1_000)]);
}

#[test]
fn batches_alone_share_large_groups() {
    let queue = Queue::new();
    for number in [1, 2, 1, 2, 1, 2] {
        push(&queue, number, 1_000).unwrap();
    }
    assert_eq!(group(&queue), [1, 2, 1, 2].map(|number| (number, 1_000)));
    assert_eq!(group(&queue), [1, 2].map(|number| (number, 1_000)));
}

#[test]
fn one_organization_keeps_its_order_whatever_the_size() {
    let queue = Queue::new();
    for events in [1, 1_000, 2] {
        push(&queue, 1, events).unwrap();
    }
    assert_eq!(group(&queue), [(1, 1), (1, 1_000), (1, 2)]);
}

#[test]
fn an_organization_has_as_much_as_is_free_and_others_find_room() {
    let queue = Queue::new();
    let mut answers = Vec::new();
    let mut taken = |number: u128, events: usize| {
        let mut count = 0;
        loop {
            match queue.push(organization(number), batch(events)) {
                Ok(answer) => answers.push(answer),
                Err(reason) => return (count, reason),
            }
            count += 1;
        }
    };
    assert_eq!(taken(1, 1_000), (32, Rejection::Share), "half, alone");
    assert_eq!(taken(2, 1_000), (16, Rejection::Share), "half of the rest");
    assert_eq!(taken(3, 1), (2_024, Rejection::Share), "requests, too");
    let mut number = 3;
    let full = loop {
        number += 1;
        if let (0, reason) = taken(number, 4_000) {
            break reason;
        }
    };
    assert_eq!(full, Rejection::Full);
    // Whoever is answered has its room again, wherever its request was.
    let requests = queue.state().next_group(Instant::now());
    drop(requests);
    queue.abandon();
    assert_eq!(queue.state().used, Load::default());
    assert!(queue.state().lines.is_empty());
    assert_eq!(push(&queue, 1, 1), Err(Rejection::Closed));
}

#[test]
fn memory_is_bounded_as_well_and_what_was_held_is_settled_all_the_same() {
    let queue = Queue::new();
    let fat = || {
        let Op::Record(mut events) = batch(100) else {
            unreachable!("it is a batch")
        };
        for event in &mut events {
            event.metadata = Some("m".repeat(8_192));
        }
        Op::Record(events)
    };
    let mut count = 0;
    while queue.push(organization(1), fat()).is_ok() {
        count += 1;
    }
    assert!((8..=10).contains(&count), "half of 16 MiB: {count}");
    assert!(queue.state().used.bytes <= CAPACITY.bytes / 2);
    let reservation = crate::metering::ledger::Reservation {
        organization_id: organization(1),
        id: Uuid::nil(),
        metric: "api_calls".to_owned(),
        quantity: 1.into(),
    };
    while push(&queue, 1, 1).is_ok() {}
    let settle = Op::Settle {
        reservation,
        used: true,
    };
    assert!(queue.push(organization(1), settle).is_ok());
    // A group is copied on its way.
    assert!(group(&queue).len() < 4);
}
