//! The composition root: reads the configuration, wires adapters to ports, runs commands. The binaries are thin shells
//! around [`run`].

pub mod audit;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
mod descriptors;
pub mod directory;
pub mod engines;
pub mod files;
pub mod gate;
pub mod ledger;
pub mod process;
pub mod progress;
pub mod service;
pub mod shutdown;
pub mod signals;
pub mod system;

use std::process::ExitCode;

use clap::Parser;
use futures::FutureExt;
use verbatim_core::ports::local_engine::LoadLocalEngine;

use crate::cli::{Cli, Command, ConfigCommand, NodeCli};
use crate::config::{Config, Overrides, Role};
use crate::process::Process;

/// Exit code for what was asked in the wrong way.
const USAGE: u8 = 2;

/// Runs the command line of this process. `whisper` loads the local engine, where the binary has one. To be called first
/// thing in `main`, outside of any runtime: a service may replace the process by a fresh image of its program.
pub fn run(whisper: Option<LoadLocalEngine>) -> ExitCode {
    from_the_start(|process| {
        let cli = Cli::parse();
        match config::load(cli.config.as_deref(), &overrides(&cli.command)) {
            Ok(config) => dispatch(process, cli.command, config, whisper),
            Err(error) => misused(&error),
        }
    })
}

/// Runs a process that only takes jobs in; to be called as [`run`] is.
pub fn run_api() -> ExitCode {
    run_node(Role::Api, None)
}

/// Runs a process that only works on jobs; to be called as [`run`] is.
pub fn run_worker(whisper: Option<LoadLocalEngine>) -> ExitCode {
    run_node(Role::Worker, whisper)
}

fn run_node(role: Role, whisper: Option<LoadLocalEngine>) -> ExitCode {
    from_the_start(|process| {
        let cli = NodeCli::parse();
        let command = cli.command.map(Command::from);
        let overrides = match &command {
            Some(command) => Overrides { role, ..overrides(command) },
            None => cli.service.overrides(role),
        };
        match (config::load(cli.config.as_deref(), &overrides), command) {
            (Ok(config), Some(command)) => dispatch(process, command, config, whisper),
            (Ok(config), None) => serve(process, role, config, whisper),
            (Err(error), _) => misused(&error),
        }
    })
}

/// Holds signals before anything else is done.
fn from_the_start(rest: impl FnOnce(Process) -> ExitCode) -> ExitCode {
    match Process::begin() {
        Ok(process) => rest(process),
        Err(error) => exit_code(Err(error.into())),
    }
}

fn serve(process: Process, role: Role, config: Config, whisper: Option<LoadLocalEngine>) -> ExitCode {
    process.service(|control| service::run(role, config, whisper, control).boxed_local())
}

fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misused(error: &config::ConfigError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}

/// What the flags of `command` say about the configuration.
fn overrides(command: &Command) -> Overrides {
    match command {
        Command::Serve(arguments) | Command::Config(ConfigCommand::Check(arguments)) => {
            arguments.overrides(Role::Serve)
        }
        Command::Api(arguments) => arguments.overrides(Role::Api),
        Command::Worker(arguments) => arguments.overrides(Role::Worker),
        Command::Transcribe(arguments) => {
            Overrides { model: arguments.model.clone(), ..Overrides::default() }
        }
        Command::Keys(arguments) => {
            Overrides { data_dir: arguments.data_dir.clone(), ..Overrides::default() }
        }
        Command::Tenants(arguments) => {
            Overrides { data_dir: arguments.data_dir.clone(), ..Overrides::default() }
        }
        Command::Cost(arguments) => {
            Overrides { data_dir: arguments.data_dir.clone(), ..Overrides::default() }
        }
        Command::Blobs(arguments) => {
            Overrides { data_dir: arguments.data_dir.clone(), ..Overrides::default() }
        }
        Command::Backup(arguments) => {
            Overrides { data_dir: arguments.common.data_dir.clone(), ..Overrides::default() }
        }
        Command::Restore(arguments) => {
            Overrides { data_dir: arguments.common.data_dir.clone(), ..Overrides::default() }
        }
        _ => Overrides::default(),
    }
}

fn dispatch(
    process: Process,
    command: Command,
    config: Config,
    whisper: Option<LoadLocalEngine>,
) -> ExitCode {
    match command {
        Command::Serve(_) => serve(process, Role::Serve, config, whisper),
        Command::Api(_) => serve(process, Role::Api, config, None),
        Command::Worker(_) => serve(process, Role::Worker, config, whisper),
        other => process.command(run_command(other, config, whisper).boxed_local()),
    }
}

async fn run_command(
    command: Command,
    config: Config,
    whisper: Option<LoadLocalEngine>,
) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) | Command::Api(_) | Command::Worker(_) => {
            anyhow::bail!("a service is no command that ends")
        }
        Command::Transcribe(arguments) => commands::transcribe::run(&arguments, &config, whisper).await,
        Command::Submit(arguments) => commands::submit::run(&arguments).await,
        Command::Jobs(arguments) => commands::jobs::run(&arguments).await,
        Command::Keys(arguments) => commands::keys::run(arguments, &config).await,
        Command::Tenants(arguments) => commands::tenants::run(arguments, &config).await,
        Command::Cost(arguments) => commands::cost::run(arguments, &config).await,
        Command::Backup(arguments) => commands::backup::back_up(arguments, &config).await,
        Command::Restore(arguments) => commands::backup::restore(arguments, &config).await,
        Command::Blobs(arguments) => commands::blobs::run(arguments, &config).boxed_local().await,
        Command::Dlq(arguments) => commands::dead_letters::run(&arguments, &config).await,
        Command::Models(command) => commands::models::run(&command, &config.models).await,
        Command::Config(ConfigCommand::Check(_)) => commands::config::check(&config),
        Command::Healthcheck(arguments) => commands::healthcheck::run(&arguments).await,
        Command::Openapi => commands::documents::openapi(),
        Command::Completions { shell } => {
            commands::documents::completions(shell);
            Ok(())
        }
        Command::Man { output_dir } => commands::documents::man(&output_dir),
    }
}
