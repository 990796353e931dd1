//! Times as the pages show them: how long ago, and exactly.

use jiff::Timestamp;

/// A time beside the time at which the page is made.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Timestamp,
    now: Timestamp,
}

impl Moment {
    pub fn now(at: Timestamp) -> Self {
        Self {
            at,
            now: Timestamp::now(),
        }
    }

    /// For programs.
    pub fn exact(self) -> String {
        self.at.to_string()
    }

    /// For people who want it exactly.
    pub fn in_utc(self) -> String {
        self.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    pub fn relative(self) -> String {
        let secs = self.now.as_second() - self.at.as_second();
        match secs {
            -4..5 => "now".to_owned(),
            secs if secs < 0 => format!("in {}", span(-secs)),
            secs => format!("{} ago", span(secs)),
        }
    }
}

/// A length of time in its largest unit.
pub fn span(secs: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let found = UNITS.iter().find(|(length, _)| secs >= *length);
    let (length, name) = found.unwrap_or(&UNITS[3]);
    format!("{} {name}", secs / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_its_largest_unit() {
        let now = Timestamp::from_second(1_769_853_600).unwrap();
        let of = |before: i64| {
            let at = Timestamp::from_second(now.as_second() - before).unwrap();
            Moment { at, now }.relative()
        };
        assert_eq!(of(0), "now");
        assert_eq!(of(59), "59 s ago");
        assert_eq!(of(3_599), "59 min ago");
        assert_eq!(of(200_000), "2 d ago");
        assert_eq!(of(-7_200), "in 2 h");
        let moment = Moment { at: now, now };
        assert_eq!(moment.in_utc(), "2026-01-31 10:00:00 UTC");
        assert_eq!(moment.exact(), "2026-01-31T10:00:00Z");
    }
}
