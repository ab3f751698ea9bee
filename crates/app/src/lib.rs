//! The composition root: reads the configuration, wires adapters to ports, runs commands. The binaries are thin shells
//! around [`run`].

pub mod auth;
pub mod backup;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod directory;
pub mod engines;
pub mod files;
pub mod gate;
pub mod ledger;
pub mod progress;
pub mod service;
pub mod shutdown;
pub mod system;

use std::process::ExitCode;

use clap::Parser;
use futures::FutureExt;
use verbatim_core::ports::local_engine::LoadLocalEngine;

use crate::cli::{Cli, Command, ConfigCommand, NodeCli};
use crate::config::{Config, Overrides, Role};

/// Exit code for what was asked in the wrong way.
const USAGE: u8 = 2;

/// Runs the command line of this process. `whisper` loads the local engine, where the binary has one.
pub async fn run(whisper: Option<LoadLocalEngine>) -> ExitCode {
    let cli = Cli::parse();
    match config::load(cli.config.as_deref(), &overrides(&cli.command)) {
        Ok(config) => exit_code(dispatch(cli.command, config, whisper).boxed_local().await),
        Err(error) => misused(&error),
    }
}

/// Runs a process that only takes jobs in.
pub async fn run_api() -> ExitCode {
    run_node(Role::Api, None).await
}

/// Runs a process that only works on jobs.
pub async fn run_worker(whisper: Option<LoadLocalEngine>) -> ExitCode {
    run_node(Role::Worker, whisper).await
}

async fn run_node(role: Role, whisper: Option<LoadLocalEngine>) -> ExitCode {
    let cli = NodeCli::parse();
    if let Some(command) = cli.command {
        let command = Command::from(command);
        return match config::load(cli.config.as_deref(), &Overrides { role, ..overrides(&command) }) {
            Ok(config) => exit_code(dispatch(command, config, whisper).boxed_local().await),
            Err(error) => misused(&error),
        };
    }
    match config::load(cli.config.as_deref(), &cli.service.overrides(role)) {
        Ok(config) => exit_code(service::run(role, config, whisper).boxed_local().await),
        Err(error) => misused(&error),
    }
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
        Command::Cost(arguments) => {
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

async fn dispatch(command: Command, config: Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) => service::run(Role::Serve, config, whisper).boxed_local().await,
        Command::Api(_) => service::run(Role::Api, config, None).boxed_local().await,
        Command::Worker(_) => service::run(Role::Worker, config, whisper).boxed_local().await,
        Command::Transcribe(arguments) => commands::transcribe::run(&arguments, &config, whisper).await,
        Command::Submit(arguments) => commands::submit::run(&arguments).await,
        Command::Jobs(arguments) => commands::jobs::run(&arguments).await,
        Command::Keys(arguments) => commands::keys::run(arguments, &config).await,
        Command::Cost(arguments) => commands::cost::run(arguments, &config).await,
        Command::Backup(arguments) => commands::backup::back_up(arguments, &config).await,
        Command::Restore(arguments) => commands::backup::restore(arguments, &config).await,
        Command::Dlq(arguments) => commands::dead_letters::run(&arguments).await,
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
