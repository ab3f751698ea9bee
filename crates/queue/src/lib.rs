//! Job stores behind the ports of [`verbatim_core::ports::jobs`], and the suite of checks that each must pass.

mod blobs;
mod checkpoints;
pub mod conformance;
mod limiter;
mod newer;
pub mod redis;
pub mod sqlite;
mod ticket;
mod watching;

use std::time::Duration;

use verbatim_admission::{Holdings, Refused};
use verbatim_core::caps::MAX_TENANTS_PER_CALL;
use verbatim_core::policy::StorePolicy;
use verbatim_core::{ErrorKind, PortError, Refusal};

pub use self::redis::{RedisConfig, RedisStore, StoreCondition};
pub use sqlite::{SqliteBooks, SqliteConfig, SqliteDirectory, SqliteStore};

/// Jobs that are too old, of which one claim ends at most so many on its way to one that it gives.
const MOST_TOO_OLD: usize = 16;
/// After how long without upkeep a store was away. Longer than it takes a cluster to find that the node which did it is dead.
const AWAY: Duration = Duration::from_secs(4);
/// How many leases in a row a holder is given because the store had been away, without having renewed one. Each is given
/// after another gap between ticks, so that only a store that is hardly ever there can reach this.
const MOST_GRACES: u32 = 10;
/// What clients are told when too many jobs wait.
const BACKLOG_RETRY: Duration = Duration::from_secs(10);

/// The most days for which charges of single jobs are kept, whatever the settings: as many as earlier versions kept.
const MOST_DAYS: u32 = 30;

/// The same where ended jobs have to expire first.
const REMEMBERED_RETRY: Duration = Duration::from_secs(300);

/// The answer to a submission whose ticket is gone while the job that it made is still kept. Of a kind that leaves open
/// whether the upload is somebody's: it is that job's.
fn job_exists() -> PortError {
    PortError::new(
        ErrorKind::Internal,
        "the submission was made before and removed since; its job is still there",
    )
}

/// The answer to a submission of a tenant of which as many are remembered as may be. Room comes when jobs expire or are
/// deleted, which is no matter of seconds.
fn too_many_remembered() -> PortError {
    PortError::new(ErrorKind::Throttled, "as many of the tenant's submissions are remembered as may be")
        .because(Refusal::TooManyRemembered)
        .with_retry_after(REMEMBERED_RETRY)
}

/// The answer to a submission for which the tenants' shares of what may be remembered leave no room. The wait is spread by a
/// `fraction` between 0 and 1, so that clients that were refused together do not return together.
fn no_share(why: Refused, fraction: f64) -> PortError {
    let error = match why {
        Refused::Full => PortError::new(
            ErrorKind::Unavailable,
            "as many submissions are remembered as may be; room comes when some expire or are deleted",
        )
        .because(Refusal::StoreLimit)
        .refused(),
        Refused::Share => PortError::new(
            ErrorKind::Throttled,
            "the tenant has its share of the submissions that may be remembered",
        )
        .because(Refusal::StoreShare),
    };
    error.with_retry_after(REMEMBERED_RETRY.mul_f64(1.0 + fraction))
}

/// The number of remembered submissions up to which tenants' shares are not looked at, where there may be so many in all.
fn unshared(most: u64) -> u64 {
    Holdings::unshared(usize::try_from(most).unwrap_or(usize::MAX)) as u64
}

/// Refuses calls about too many tenants.
fn check_tenants(tenants: usize) -> Result<(), PortError> {
    if tenants > MAX_TENANTS_PER_CALL {
        let message = format!("{tenants} tenants in one call; at most {MAX_TENANTS_PER_CALL} are allowed");
        return Err(PortError::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// For how many days, beside the present one, the charges of single jobs are kept: as long as a job may be charged for the same
/// lease again, so that it counts once. It lives up to its greatest age, and as long again if it is redriven before it is
/// forgotten as a dead letter. Totals are kept apart.
fn charges_kept(policy: &StorePolicy) -> u32 {
    const DAY: u64 = 24 * 3600;
    let StorePolicy { max_age, result_retention, .. } = policy;
    let longest = max_age.saturating_mul(2).saturating_add(*result_retention);
    u32::try_from(longest.as_secs().div_ceil(DAY)).unwrap_or(u32::MAX).min(MOST_DAYS)
}

/// A dead letter that cannot be queued again.
fn not_redriven(why: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("the job is not queued again: {why}"))
}
