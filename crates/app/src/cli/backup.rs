//! The command line of `verbatim backup` and `verbatim restore`.

use std::path::PathBuf;

use clap::Args;

/// `verbatim backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The tar file to write; it appears once it is whole, in place of one that is there
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it shares with `verbatim restore`.
    #[command(flatten)]
    pub common: BackupOptions,
}

/// `verbatim restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The tar file that `verbatim backup` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it shares with `verbatim backup`.
    #[command(flatten)]
    pub common: BackupOptions,
}

/// What both have.
#[derive(Debug, Args)]
pub struct BackupOptions {
    /// Folder of the server's database, audio and results; a restore needs a new or empty one
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print a summary as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}
