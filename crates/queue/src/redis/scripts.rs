//! The Lua scripts, one per operation: the shared text, then its own. Sent by hash; loaded again where Redis has
//! forgotten them.

use std::sync::LazyLock;

use redis::Script;

/// Defines a script: its name, and what Redis may do with it when it is full or a replica.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $flags:literal, $file:literal;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
                Script::new(concat!("#!lua", $flags, "\n", include_str!("lua/common.lua"), include_str!($file)))
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
    DEAD_LETTERS = " flags=no-writes", "lua/dead_letters.lua";
    REFERENCED = " flags=no-writes", "lua/referenced.lua";
    /// What takes work off a full Redis goes on: it makes room in the end.
    CLAIM = " flags=allow-oom", "lua/claim.lua";
    RENEW = " flags=allow-oom", "lua/renew.lua";
    FINISH = " flags=allow-oom", "lua/finish.lua";
    CANCEL = " flags=allow-oom", "lua/cancel.lua";
    TICK = " flags=allow-oom", "lua/tick.lua";
    DISCARD = " flags=allow-oom", "lua/discard.lua";
    /// Segments take room; a worker completes without having been able to report.
    REPORT = "", "lua/report.lua";
    REDRIVE = "", "lua/redrive.lua";
    REVOKE = " flags=allow-oom", "lua/revoke.lua";
}
