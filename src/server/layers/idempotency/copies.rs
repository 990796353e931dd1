//! Copies of answers that are still on their way to clients: what they take of
//! memory, in all and of each organization or caller without any. An answer that finds no room is
//! passed on and not kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::limits;
use crate::telemetry::metrics::budget as metrics;

#[derive(Clone, Default)]
pub struct Copies(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    of: HashMap<Uuid, usize>,
}

/// The copy of one answer.
pub struct Copy {
    copies: Copies,
    share_of: Uuid,
    body: Vec<u8>,
    counted: usize,
}

impl Copies {
    pub fn begin(&self, share_of: Uuid) -> Copy {
        Copy {
            copies: self.clone(),
            share_of,
            body: Vec::new(),
            counted: 0,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, share_of: Uuid, bytes: usize) -> bool {
        let mut taken = self.taken();
        let own = taken.of.get(&share_of).copied().unwrap_or(0);
        let fits =
            taken.all + bytes <= limits::COPIES && own + bytes <= limits::COPIES_OF_ORGANIZATION;
        if fits {
            taken.all += bytes;
            taken.of.insert(share_of, own + bytes);
        }
        fits
    }

    fn give_back(&self, share_of: Uuid, bytes: usize) {
        let mut taken = self.taken();
        taken.all -= bytes;
        if let Some(own) = taken.of.get_mut(&share_of) {
            *own -= bytes;
            if *own == 0 {
                taken.of.remove(&share_of);
            }
        }
    }
}

impl Copy {
    /// The copy with `chunk` at its end; None: it is too large, or there is no
    /// room.
    pub fn and(mut self, chunk: &[u8]) -> Option<Self> {
        let length = self.body.len() + chunk.len();
        if length > limits::KEPT_ANSWER {
            metrics::answer_not_kept(metrics::TOO_LARGE);
            return None;
        }
        if length > self.counted {
            // Room is taken as the vector grows: doubled, and by some KiB at least.
            let room = length.max(2 * self.counted).max(limits::COPY_STEP);
            let room = room.min(limits::KEPT_ANSWER);
            if !self.copies.take(self.share_of, room - self.counted) {
                metrics::answer_not_kept(metrics::NO_ROOM);
                return None;
            }
            self.counted = room;
            self.body.reserve_exact(room - self.body.len());
        }
        self.body.extend_from_slice(chunk);
        Some(self)
    }

    /// What is to be kept; it is counted until this is dropped.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.copies.give_back(self.share_of, self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_one_organization_leave_room_for_others() {
        let copies = Copies::default();
        let chunk = vec![0; limits::KEPT_ANSWER];
        let of = |n: u128| copies.begin(Uuid::from_u128(n)).and(&chunk);
        let mut kept = Vec::new();
        while let Some(copy) = of(1) {
            kept.push(copy);
        }
        let each = limits::COPIES_OF_ORGANIZATION / limits::KEPT_ANSWER;
        assert_eq!(kept.len(), each);
        kept.extend((2..100).filter_map(of));
        let all = limits::COPIES / limits::KEPT_ANSWER;
        assert_eq!(kept.len(), all, "in all");
        kept.clear();
        assert!(of(1).is_some(), "what was kept is given back");
        assert!(copies.taken().of.is_empty());
    }

    #[test]
    fn a_copy_takes_little_more_than_it_holds() {
        let copies = Copies::default();
        let mut copy = copies.begin(Uuid::nil());
        let mut length = 0;
        while let Some(more) = copy.and(&[7; 1_000]) {
            copy = more;
            length += 1_000;
            assert_eq!(copies.taken().all, copy.counted);
            assert!(copy.counted <= (2 * length).max(limits::COPY_STEP));
            assert!(copy.body.capacity() <= copy.counted);
            if length > limits::KEPT_ANSWER - 1_000 {
                assert_eq!(copy.take(), vec![7; length]);
                drop(copy);
                assert_eq!(copies.taken().all, 0);
                return;
            }
        }
        panic!("an answer that may be kept is");
    }
}
