//! How long and how hard.

use std::time::Duration;

/// Read from the environment; the defaults are the short form.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// `VCB_ATTACK_CONNECTIONS`: of each flood.
    pub connections: usize,
    /// `VCB_ATTACK_MILLIS`: how long each attack lasts.
    pub lasts: Duration,
    /// `VCB_ATTACK_QUIET_MILLIS`: how long it is quiet before each; 0: only once,
    /// before the first.
    pub quiet: Duration,
    /// `VCB_ATTACK_PACE_MILLIS`: how often a check, a read and a delivery
    /// are due.
    pub pace: Duration,
    /// `VCB_ATTACK_BARS=all`: latencies and memory afterwards are held, and each
    /// part is asked after each attack.
    pub holds_all: bool,
    /// `VCB_ATTACK_ELSEWHERE=1`: attacks go to a server of nothing, to see what the
    /// attackers themselves take of this machine.
    pub elsewhere: bool,
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number: {text}"))
    })
}

impl Sizes {
    pub fn read() -> Self {
        let millis = |name, default| Duration::from_millis(number(name, default));
        Self {
            connections: usize::try_from(number("VCB_ATTACK_CONNECTIONS", 64)).unwrap(),
            lasts: millis("VCB_ATTACK_MILLIS", 150),
            quiet: millis("VCB_ATTACK_QUIET_MILLIS", 0),
            pace: millis("VCB_ATTACK_PACE_MILLIS", 25),
            holds_all: std::env::var("VCB_ATTACK_BARS").is_ok_and(|bars| bars == "all"),
            elsewhere: number("VCB_ATTACK_ELSEWHERE", 0) > 0,
        }
    }

    /// Whether `VCB_ATTACK_ONLY` names the attack, or a part of its name; all
    /// without it.
    pub fn wants(name: &str) -> bool {
        let only = std::env::var("VCB_ATTACK_ONLY").unwrap_or_default();
        let mut parts = only.split(',').map(str::trim);
        only.is_empty() || parts.any(|part| name.contains(part))
    }
}
