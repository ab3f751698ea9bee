//! `verbatim tenants`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use verbatim_core::ids::TenantId;

use super::tenant;

/// `verbatim tenants`
#[derive(Debug, Args)]
pub struct TenantsArgs {
    /// Folder of the server's database (without a Redis)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: TenantsCommand,
}

/// What can be done with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantsCommand {
    /// List tenants with what they take up and may
    List,
    /// Show a tenant: its own caps, those of its keys, those in force and who sets them, and its jobs now
    Show {
        /// Its name
        #[arg(value_parser = tenant)]
        tenant: TenantId,
    },
    /// Cap a tenant, whichever of its keys is used; what is queued already does not begin beyond it
    Cap(CapArgs),
}

/// `verbatim tenants cap`
#[derive(Debug, Args)]
pub struct CapArgs {
    /// Its name
    #[arg(value_parser = tenant)]
    pub tenant: TenantId,
    /// Jobs of the tenant that may run at once; none: no cap but those of its keys [default: as it is]
    #[arg(long, value_name = "N|none", value_parser = cap, required_unless_present = "max_queued")]
    pub max_running: Option<CapArg>,
    /// Jobs of the tenant that may wait at once; none: no cap but those of its keys [default: as it is]
    #[arg(long, value_name = "N|none", value_parser = cap)]
    pub max_queued: Option<CapArg>,
}

/// A cap, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapArg(pub Option<u64>);

fn cap(text: &str) -> Result<CapArg, String> {
    if text == "none" {
        return Ok(CapArg(None));
    }
    let most = text.parse().ok().filter(|most| *most > 0);
    most.map(|most| CapArg(Some(most))).ok_or_else(|| "it is a number from 1 on, or none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_number_from_one_on_or_none() {
        assert_eq!((cap("none"), cap("7")), (Ok(CapArg(None)), Ok(CapArg(Some(7)))));
        for bad in ["0", "-1", "", "many", "1.5"] {
            assert!(cap(bad).is_err(), "{bad}");
        }
    }
}
