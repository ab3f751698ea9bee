//! The command line of `verbatim blobs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use verbatim_core::ids::StoreId;

/// `verbatim blobs`
#[derive(Debug, Args)]
pub struct BlobsArgs {
    /// Folder of the server's database, audio and results (without a Redis and a bucket)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: BlobsCommand,
}

/// What can be done with audio and results as a whole.
#[derive(Debug, Subcommand)]
pub enum BlobsCommand {
    /// List the job stores whose audio and results are here: how many, how large, how old
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete all audio and results of a job store that is gone
    Purge {
        /// Its id, as `verbatim blobs list` shows it
        #[arg(long, value_name = "ID", value_parser = store_id)]
        store: StoreId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Even if it is the one in use, or another that was in use a moment ago
        #[arg(long)]
        force: bool,
    },
    /// Say that the audio and results here are those of this job store, after they were moved without its marker
    Adopt,
}

fn store_id(text: &str) -> Result<StoreId, String> {
    StoreId::parse(text).map_err(|error| error.to_string())
}
