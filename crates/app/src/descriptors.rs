//! File descriptors: each connection takes one, and so does each file of the stores. What a login shell allows (often 1,024) is
//! less than the connections of a node, and whoever takes them all silences it, health checks included.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::LimitsConfig;

/// Descriptors that are kept for files, stores and calls to providers, at least.
const KEPT: u64 = 64;

/// Raises the limit of this process to what the system allows, and tells it.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

/// The connections that a process with so many descriptors can have, of those that are `wanted`: three quarters of the
/// descriptors at most.
pub(crate) fn connections(wanted: usize, descriptors: u64) -> usize {
    let room = descriptors.saturating_sub((descriptors / 4).max(KEPT)).max(1);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Lowers what lasts on connections in proportion to them: requests and waits that together took all of them would leave none
/// that can give way to another client's.
pub(crate) fn scale(limits: &mut LimitsConfig, connections: usize) {
    let wanted = limits.max_connections.max(1);
    let scaled = |limit: usize| (limit.saturating_mul(connections) / wanted).max(1);
    limits.max_requests_in_flight = scaled(limits.max_requests_in_flight);
    limits.max_watchers = scaled(limits.max_watchers);
    limits.max_connections = connections;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_fewer_connections_fewer_requests_and_waits_take_all_of_them() {
        let mut limits = LimitsConfig::default();
        scale(&mut limits, 768);
        assert_eq!(
            (limits.max_requests_in_flight, limits.max_watchers, limits.max_connections),
            (96, 384, 768)
        );
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(connections(8192, 1_048_576), 8192);
        assert_eq!(connections(8192, 1024), 768);
        assert_eq!(connections(8192, 200), 136);
        assert_eq!(connections(8192, 10), 1);
        assert_eq!(connections(10, u64::MAX), 10);
    }

    #[test]
    fn the_limit_is_what_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(), hard);
    }
}
