//! File descriptors: how many this process may open.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Raises the soft limit to the hard one. What it was, where it stays.
pub fn raise() -> Result<(), Errno> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none() || current == maximum {
        return Ok(());
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
}

/// The soft limit; `None` if unlimited.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The hard limit; `None` if unlimited.
pub fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// How many descriptors the connections of our table need.
pub fn wanted() -> u64 {
    limits::CONNECTIONS as u64 * limits::DESCRIPTORS_OF_CONNECTION + limits::DESCRIPTORS_RESERVED
}

/// How many connections `limit` descriptors are enough for.
pub fn connections(limit: Option<u64>) -> usize {
    let Some(limit) = limit else {
        return limits::CONNECTIONS;
    };
    let spare = limit.saturating_sub(limits::DESCRIPTORS_RESERVED);
    let connections = spare / limits::DESCRIPTORS_OF_CONNECTION;
    usize::try_from(connections).map_or(limits::CONNECTIONS, |some| {
        some.clamp(16, limits::CONNECTIONS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(connections(None), limits::CONNECTIONS);
        assert_eq!(connections(Some(wanted())), limits::CONNECTIONS);
        assert_eq!(connections(Some(1_024)), 384);
        assert_eq!(connections(Some(100)), 16);
    }
}
