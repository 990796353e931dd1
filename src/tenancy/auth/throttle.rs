//! What slows down those who guess passwords. An attempt is counted before the
//! password is looked at, so that a thousand at once count as a thousand.
//!
//! Three counters stand in the way of an attempt:
//! - of the account from this address: steep;
//! - of the address, whatever the account: a success gives its own attempt back
//!   and does not clear it, so an attacker's own account resets nothing, and an
//!   office behind one address is not locked out by its logins;
//! - of the account, from anywhere: a short delay only, and not for an address
//!   from which its owner has logged in, who can so not be locked out.

use jiff::{SignedDuration, Timestamp};

/// When failures are forgotten.
const MEMORY: SignedDuration = SignedDuration::from_hours(24);
/// For how long an address stays known to an account.
const ACQUAINTANCE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The counters, in the order of the array that [`attempt`] takes.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Failures before the first delay, which is a second.
    free: i32,
    /// Delays double up to this.
    longest_secs: i64,
}

pub const PAIR: Limit = Limit {
    free: 5,
    longest_secs: 900,
};
pub const ADDRESS: Limit = Limit {
    free: 50,
    longest_secs: 900,
};
pub const ACCOUNT: Limit = Limit {
    free: 100,
    longest_secs: 30,
};

/// In the order of the counters.
pub const LIMITS: [Limit; 3] = [PAIR, ADDRESS, ACCOUNT];

/// One counter, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    pub failures: i32,
    pub last_attempt_at: Timestamp,
    pub blocked_until: Option<Timestamp>,
    pub succeeded_at: Option<Timestamp>,
}

impl Counter {
    pub fn new(now: Timestamp) -> Self {
        Self {
            failures: 0,
            last_attempt_at: now,
            blocked_until: None,
            succeeded_at: None,
        }
    }

    fn blocks(&self, now: Timestamp) -> Option<Timestamp> {
        self.blocked_until.filter(|until| *until > now)
    }

    /// Counts an attempt as failed until it succeeds.
    fn count(&mut self, limit: Limit, now: Timestamp) {
        if now.duration_since(self.last_attempt_at) > MEMORY {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_attempt_at = now;
        let beyond = self.failures - limit.free;
        self.blocked_until = (beyond >= 0).then(|| {
            let doubled = 1_i64 << beyond.min(30);
            now + SignedDuration::from_secs(doubled.min(limit.longest_secs))
        });
    }

    /// Takes back an attempt that was counted at `counted_at`. A delay that it
    /// began ends; one that a later failure began does not.
    pub fn give_back(&mut self, limit: Limit, counted_at: Timestamp) {
        self.failures = (self.failures - 1).max(0);
        if self.last_attempt_at <= counted_at || self.failures < limit.free {
            self.blocked_until = None;
        }
    }

    fn knows_the_address(&self, now: Timestamp) -> bool {
        self.succeeded_at
            .is_some_and(|at| now.duration_since(at) <= ACQUAINTANCE)
    }
}

/// An attempt has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub until: Timestamp,
    /// For as long as this, any attempt from the address.
    pub of_address: Option<Timestamp>,
}

/// Whether an attempt may be made now, and how the counters [pair, address,
/// account] stand after it. Refused, it counts nothing.
pub fn attempt(counters: &mut [Counter; 3], now: Timestamp) -> Result<(), Refused> {
    let [pair, address, account] = &*counters;
    let of_account = account.blocks(now).filter(|_| !pair.knows_the_address(now));
    let of_address = address.blocks(now);
    let until = [pair.blocks(now), of_address, of_account]
        .into_iter()
        .flatten()
        .max();
    if let Some(until) = until {
        return Err(Refused { until, of_address });
    }
    for (counter, limit) in counters.iter_mut().zip(LIMITS) {
        counter.count(limit, now);
    }
    Ok(())
}

/// The attempt that was counted at `counted_at` has succeeded: the account is
/// free again, and the address is known to it.
pub fn succeed(counters: &mut [Counter; 3], counted_at: Timestamp, now: Timestamp) {
    let [pair, address, account] = counters;
    for counter in [pair, account] {
        counter.failures = 0;
        counter.blocked_until = None;
        counter.succeeded_at = Some(now);
    }
    address.give_back(ADDRESS, counted_at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).unwrap()
    }

    fn fresh() -> [Counter; 3] {
        [Counter::new(at(0)); 3]
    }

    fn until(attempted: Result<(), Refused>) -> Option<Timestamp> {
        attempted.err().map(|refused| refused.until)
    }

    #[test]
    fn successes_lock_nobody_out() {
        let mut address = Counter::new(at(0));
        for second in 0..1_000 {
            // An office: many accounts, one address.
            let mut counters = [Counter::new(at(0)), address, Counter::new(at(0))];
            attempt(&mut counters, at(second)).unwrap();
            succeed(&mut counters, at(second), at(second));
            address = counters[1];
        }
        assert_eq!((address.failures, address.blocked_until), (0, None));
    }

    #[test]
    fn a_success_takes_back_its_own_attempt_and_no_other() {
        let guess = |address: Counter, second| {
            let mut counters = [Counter::new(at(0)), address, Counter::new(at(0))];
            let let_through = attempt(&mut counters, at(second)).is_ok();
            (counters[1], let_through)
        };
        // An attacker with an account of its own, which logs in between.
        let (mut address, mut guesses) = (Counter::new(at(0)), 0);
        for second in 0..3_600 {
            let (after, let_through) = guess(address, 2 * second);
            guesses += usize::from(let_through);
            let mut own = [Counter::new(at(0)), after, Counter::new(at(0))];
            if attempt(&mut own, at(2 * second + 1)).is_ok() {
                succeed(&mut own, at(2 * second + 1), at(2 * second + 1));
            }
            address = own[1];
        }
        assert!((50..80).contains(&guesses), "{guesses}");
        // A failure that was counted after it keeps its delay.
        let mut address = Counter::new(at(0));
        for _ in 0..49 {
            address.count(ADDRESS, at(0));
        }
        address.count(ADDRESS, at(1));
        address.count(ADDRESS, at(2));
        let delayed = address.blocked_until;
        address.give_back(ADDRESS, at(1));
        assert_eq!(address.blocked_until, delayed);
        assert_eq!(address.failures, 50);
    }

    /// Attempts one second apart that were let through, of `attempts`.
    fn let_through(counters: &mut [Counter; 3], attempts: i64) -> usize {
        (0..attempts)
            .filter(|second| attempt(counters, at(*second)).is_ok())
            .count()
    }

    #[test]
    fn delays_double_and_are_capped() {
        let mut counters = fresh();
        for _ in 0..5 {
            attempt(&mut counters, at(0)).unwrap();
        }
        assert_eq!(until(attempt(&mut counters, at(0))), Some(at(1)));
        attempt(&mut counters, at(1)).unwrap();
        assert_eq!(until(attempt(&mut counters, at(2))), Some(at(3)));
        // A day of guessing is some hundred guesses.
        assert!(let_through(&mut fresh(), 86_400) < 120);
    }

    #[test]
    fn failures_are_forgotten_after_a_day() {
        let mut counters = fresh();
        let_through(&mut counters, 5);
        let tomorrow = 5 + MEMORY.as_secs() + 1;
        for _ in 0..5 {
            attempt(&mut counters, at(tomorrow)).unwrap();
        }
    }

    #[test]
    fn many_addresses_cannot_lock_a_user_out() {
        // Others have failed from everywhere, and the account is blocked.
        let mut account = Counter::new(at(0));
        for _ in 0..200 {
            account.count(ACCOUNT, at(0));
        }
        let stranger = [Counter::new(at(0)), Counter::new(at(0)), account];
        assert_eq!(until(attempt(&mut stranger.clone(), at(1))), Some(at(30)));
        let mut known = stranger;
        known[0].succeeded_at = Some(at(-1_000));
        assert_eq!(attempt(&mut known, at(1)), Ok(()));
    }

    #[test]
    fn one_address_cannot_try_many_accounts() {
        let mut address = Counter::new(at(0));
        let mut tried = 0;
        for second in 0..3_600 {
            let mut counters = [Counter::new(at(0)), address, Counter::new(at(0))];
            tried += usize::from(attempt(&mut counters, at(second)).is_ok());
            address = counters[1];
        }
        assert!((50..80).contains(&tried), "{tried}");
    }
}
