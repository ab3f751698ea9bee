//! The Lua scripts, one per operation: the guard, the shared text, then what a few share, then its own. Sent by hash; loaded
//! again where Redis has forgotten them. Redis keeps the text of each, which counts towards its `maxmemory`: comments and
//! indentation stay here.

use std::sync::LazyLock;

use redis::Script;

/// A script of these files behind the guard.
macro_rules! text {
    ($flags:literal, $($file:literal),+) => {
        concat!("#!lua", $flags, "\n", include_str!("lua/guard.lua"), $(include_str!($file)),+)
    };
}

/// The script without comments and indentation. Lines keep their numbers, by which errors name them.
fn script(text: &str) -> Script {
    let bare = |line: &'_ str| -> String {
        let line = line.trim();
        if line.starts_with("--") { String::new() } else { line.to_owned() }
    };
    Script::new(&text.lines().map(bare).collect::<Vec<_>>().join("\n"))
}

/// Whether the queue is there, and which store it is. Answered by a full Redis too.
pub(super) static LOOK: LazyLock<Script> =
    LazyLock::new(|| script(text!(" flags=no-writes", "lua/look.lua")));
/// Two small keys.
pub(super) static FOUND: LazyLock<Script> =
    LazyLock::new(|| script(text!(" flags=allow-oom", "lua/found.lua")));

/// Defines a script: its name, and what Redis may do with it when it is full or a replica.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $flags:literal, $($file:literal),+;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
                script(text!($flags, "lua/common.lua", "lua/ends.lua", "lua/turns.lua", $($file),+))
            });
        )*
    };
}

scripts! {
    /// Refused when Redis is full.
    SUBMIT = "", "lua/submit.lua";
    FIND_IDEMPOTENT = " flags=no-writes", "lua/find_idempotent.lua";
    GET = " flags=no-writes", "lua/get.lua";
    LIST = " flags=no-writes", "lua/list.lua";
    EVENTS = " flags=no-writes", "lua/events.lua";
    STATS = " flags=no-writes", "lua/stats.lua";
    SERVED = " flags=no-writes", "lua/served.lua";
    DEAD_LETTERS = " flags=no-writes", "lua/dead_letters.lua";
    REFERENCED = " flags=no-writes", "lua/referenced.lua";
    /// What takes work off a full Redis goes on: it makes room in the end.
    CLAIM = " flags=allow-oom", "lua/leases.lua", "lua/claim.lua";
    RENEW = " flags=allow-oom", "lua/leases.lua", "lua/renew.lua";
    FINISH = " flags=allow-oom", "lua/leases.lua", "lua/finish.lua";
    CANCEL = " flags=allow-oom", "lua/cancel.lua";
    ABILITIES = " flags=allow-oom", "lua/abilities.lua";
    ADOPT = " flags=allow-oom", "lua/adopt.lua";
    TICK = " flags=allow-oom", "lua/leases.lua", "lua/tick.lua";
    HEARD = " flags=allow-oom", "lua/heard.lua";
    HAND_OVER = " flags=allow-oom", "lua/hand_over.lua";
    DISCARD = " flags=allow-oom", "lua/discard.lua";
    RESULT_LOST = " flags=allow-oom", "lua/result_lost.lua";
    IDENTITY = " flags=no-writes", "lua/identity.lua";
    RAISE_MARK = " flags=allow-oom", "lua/raise_mark.lua";
    TAKE_SWEEP = " flags=allow-oom", "lua/take_sweep.lua";
    FORBID_SWEEPS = " flags=allow-oom", "lua/forbid_sweeps.lua";
    TAKE_GARBAGE = " flags=allow-oom", "lua/take_garbage.lua";
    BLOBS_DELETED = " flags=allow-oom", "lua/blobs_deleted.lua";
    /// Segments take room; a worker completes without having been able to report.
    REPORT = "", "lua/leases.lua", "lua/report.lua";
    REDRIVE = "", "lua/redrive.lua";
    REVOKE = " flags=allow-oom", "lua/revoke.lua";
    /// Against a flood, which may have filled Redis.
    CAP = " flags=allow-oom", "lua/cap.lua";
    SET_CAPS = " flags=allow-oom", "lua/set_caps.lua";
    DIRECTORY_REVISION = " flags=no-writes", "lua/directory_revision.lua";
    TENANTS = " flags=no-writes", "lua/tenants.lua";

    /// One entry for each worker.
    ANNOUNCE = " flags=allow-oom", "lua/offers.lua", "lua/announce.lua";
    WITHDRAW = " flags=allow-oom", "lua/offers.lua", "lua/withdraw.lua";
    LIST_OFFERS = " flags=no-writes", "lua/list_offers.lua";

    READ_VALUE = " flags=no-writes", "lua/read_value.lua";
    /// Small and bounded: without a place at its provider a job that is held could not be done.
    REPLACE_VALUE = " flags=allow-oom", "lua/replace_value.lua";
    LIST_VALUES = " flags=no-writes", "lua/list_values.lua";

    /// As long as a job needs it.
    RESERVE = " flags=allow-oom", "lua/ledger.lua", "lua/reserve.lua";
    /// What was done is written down, and what was not is given back.
    CHARGE = " flags=allow-oom", "lua/ledger.lua", "lua/charge.lua";
    UNRESERVE = " flags=allow-oom", "lua/ledger.lua", "lua/unreserve.lua";
    TOTALS = " flags=no-writes", "lua/ledger.lua", "lua/totals.lua";
    OF_JOB = " flags=no-writes", "lua/ledger.lua", "lua/of_job.lua";

    /// Who asks about work that is there already may go on asking.
    ADMIT = " flags=allow-oom", "lua/limits.lua", "lua/admit.lua";
    LIMIT_USE = " flags=allow-oom", "lua/limits.lua", "lua/limit_use.lua";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_not_sent_and_lines_keep_their_numbers() {
        let text = "#!lua flags=allow-oom\n-- Why.\nif a then\n  -- Because.\n  b = '--' -- as ever\nend\n";
        let bare = "#!lua flags=allow-oom\n\nif a then\n\nb = '--' -- as ever\nend";
        assert_eq!(script(text).get_hash(), Script::new(bare).get_hash());
    }
}
