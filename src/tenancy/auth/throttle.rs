//! Slows down password guessing. An attempt is counted before the password is
//! checked, so that a thousand concurrent attempts count as a thousand. Pure:
//! the counters are read and written elsewhere.
//!
//! Three counters apply to each attempt:
//! - the account from this address: delays grow steeply;
//! - the address, for any account: a success takes back its own attempt only, so
//!   that an attacker's own account resets nothing, while an office behind one
//!   address is not locked out by its logins;
//! - the account, from any address: short delays only, and none for an address
//!   from which its owner has logged in, so that owners cannot be locked out.

use std::time::Duration;

use billing_domain::retry::Backoff;
use jiff::{SignedDuration, Timestamp};

/// Failures are forgotten after this.
const MEMORY: SignedDuration = SignedDuration::from_hours(24);
/// How long an address stays known to an account after a login.
const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How a counter delays attempts.
#[derive(Debug, Clone, Copy)]
pub struct ThrottleRule {
    /// Failures before the first delay.
    free: i32,
    delays: Backoff,
}

const fn up_to_secs(longest: u64) -> Backoff {
    Backoff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(longest),
    }
}

pub const PAIR: ThrottleRule = ThrottleRule {
    free: 5,
    delays: up_to_secs(900),
};
pub const ADDRESS: ThrottleRule = ThrottleRule {
    free: 50,
    delays: up_to_secs(900),
};
pub const ACCOUNT: ThrottleRule = ThrottleRule {
    free: 100,
    delays: up_to_secs(30),
};

/// The rules, in the order of the counters that [`attempt`] takes.
pub const RULES: [ThrottleRule; 3] = [PAIR, ADDRESS, ACCOUNT];

/// A stored counter.
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

    /// Counts an attempt as failed, until it succeeds.
    fn count(&mut self, rule: ThrottleRule, now: Timestamp) {
        if now.duration_since(self.last_attempt_at) > MEMORY {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_attempt_at = now;
        let beyond = u32::try_from(self.failures - rule.free).ok();
        self.blocked_until = beyond.map(|beyond| now + rule.delays.delay(beyond));
    }

    /// Takes back an attempt counted at `counted_at`, with the delay it started;
    /// a delay started by a later failure stays.
    pub fn give_back(&mut self, rule: ThrottleRule, counted_at: Timestamp) {
        self.failures = (self.failures - 1).max(0);
        if self.last_attempt_at <= counted_at || self.failures < rule.free {
            self.blocked_until = None;
        }
    }

    fn knows_the_address(&self, now: Timestamp) -> bool {
        self.succeeded_at
            .is_some_and(|at| now.duration_since(at) <= KNOWN_FOR)
    }
}

/// The attempt must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    pub until: Timestamp,
    /// Until when every attempt from the address must wait.
    pub address_until: Option<Timestamp>,
}

/// Decides whether an attempt may be made now, and counts it in the counters
/// [pair, address, account]. A blocked attempt is not counted.
pub fn attempt(counters: &mut [Counter; 3], now: Timestamp) -> Result<(), Blocked> {
    let [pair, address, account] = &*counters;
    let account_until = account.blocks(now).filter(|_| !pair.knows_the_address(now));
    let address_until = address.blocks(now);
    let until = [pair.blocks(now), address_until, account_until]
        .into_iter()
        .flatten()
        .max();
    if let Some(until) = until {
        return Err(Blocked {
            until,
            address_until,
        });
    }
    for (counter, rule) in counters.iter_mut().zip(RULES) {
        counter.count(rule, now);
    }
    Ok(())
}

/// Records that the attempt counted at `counted_at` succeeded: the account is no
/// longer delayed, and knows the address.
pub fn succeed(counters: &mut [Counter; 3], counted_at: Timestamp, now: Timestamp) {
    forgive(counters, now);
    let [_, address, _] = counters;
    address.give_back(ADDRESS, counted_at);
}

/// The same of an attempt that was given back, as a second factor was due, which has come.
pub fn forgive(counters: &mut [Counter; 3], now: Timestamp) {
    let [pair, _, account] = counters;
    for counter in [pair, account] {
        counter.failures = 0;
        counter.blocked_until = None;
        counter.succeeded_at = Some(now);
    }
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

    fn until(attempted: Result<(), Blocked>) -> Option<Timestamp> {
        attempted.err().map(|blocked| blocked.until)
    }

    #[test]
    fn wrong_passwords_are_forgotten_once_the_second_factor_has_come() {
        let mut counters = fresh();
        for day in 0..30 {
            let now = at(day * 80_000);
            // A slip, the right password, whose code is due, and the code.
            assert_eq!(attempt(&mut counters, now), Ok(()), "day {day}");
            assert_eq!(attempt(&mut counters, now), Ok(()), "day {day}");
            for (counter, rule) in counters.iter_mut().zip(RULES) {
                counter.give_back(rule, now);
            }
            forgive(&mut counters, now);
            assert_eq!((counters[0].failures, counters[2].failures), (0, 0));
            assert!(counters[0].knows_the_address(now));
        }
        assert_eq!(counters[1].failures, 30, "the address keeps the slips");
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
        // A later failure keeps its delay.
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
        // A day of guessing yields about a hundred guesses.
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
        // The account is blocked by failures from everywhere.
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
