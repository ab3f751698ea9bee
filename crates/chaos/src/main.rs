//! `verbatim-chaos`: breaks a cluster on purpose and proves that nothing was lost. The nodes of that cluster are this same
//! program.

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use verbatim_chaos::cluster::{ROLE, Settings};
use verbatim_chaos::engine;
use verbatim_chaos::faults::Dose;
use verbatim_chaos::run::{Profile, run};

/// Break a cluster on purpose, and check that nothing was lost
#[derive(Debug, Parser)]
#[command(name = "verbatim-chaos")]
struct Cli {
    /// How much of it
    #[arg(long, value_enum, default_value_t = Size::Short)]
    profile: Size,
    /// What load and faults are drawn from [default: drawn anew]
    #[arg(long)]
    seed: Option<u64>,
    /// Submissions [default: 400 or 10000]
    #[arg(long)]
    jobs: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    /// About a minute
    Short,
    /// Many minutes
    Long,
}

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("api") => verbatim_app::run_api(),
        Ok("worker") => verbatim_app::run_worker(Some(engine::load)),
        _ => match harness(&Cli::parse()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Whether all is well.
#[tokio::main]
async fn harness(cli: &Cli) -> Result<bool> {
    let (jobs, dose) = match cli.profile {
        Size::Short => (400, Dose::SHORT),
        Size::Long => (10_000, Dose::LONG),
    };
    let seed = cli.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    let mut folder = tempfile::Builder::new().prefix("verbatim-chaos-").tempdir()?;
    // Kept until all is known to be well.
    folder.disable_cleanup(true);
    let profile = Profile { jobs: cli.jobs.unwrap_or(jobs), dose, seed };
    let outcome = run(folder.path(), Settings::mixed(std::env::current_exe()?), &profile).await;
    if outcome.as_ref().map_or(true, |outcome| !outcome.violations.is_empty()) {
        println!("the logs are in {}", folder.path().display());
    } else {
        folder.disable_cleanup(false);
    }
    let outcome = outcome?;
    for violation in outcome.violations.iter().take(50) {
        println!("{violation}");
    }
    println!("{}", outcome.table());
    Ok(outcome.violations.is_empty())
}
