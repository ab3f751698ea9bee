//! The composition root: reads the configuration, wires adapters to ports, runs commands. The binaries are thin shells
//! around [`run`].

pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod engines;
pub mod files;
pub mod gate;
pub mod progress;
pub mod shutdown;
pub mod system;

use std::process::ExitCode;

use clap::Parser;
use verbatim_core::ports::local_engine::LoadLocalEngine;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::{Config, Overrides};

/// Exit code for what was asked in the wrong way.
const USAGE: u8 = 2;

/// Runs the command line of this process. `whisper` loads the local engine, where the binary has one.
pub async fn run(whisper: Option<LoadLocalEngine>) -> ExitCode {
    let cli = Cli::parse();
    let config = match config::load(cli.config.as_deref(), &overrides(&cli.command)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match dispatch(cli.command, config, whisper).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the flags of `command` say about the configuration.
fn overrides(command: &Command) -> Overrides {
    match command {
        Command::Serve(arguments) | Command::Config(ConfigCommand::Check(arguments)) => arguments.overrides(),
        Command::Transcribe(arguments) => {
            Overrides { model: arguments.model.clone(), ..Overrides::default() }
        }
        _ => Overrides::default(),
    }
}

async fn dispatch(command: Command, config: Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) => commands::serve::run(config, whisper).await,
        Command::Transcribe(arguments) => commands::transcribe::run(&arguments, &config, whisper).await,
        Command::Submit(arguments) => commands::submit::run(&arguments).await,
        Command::Jobs(arguments) => commands::jobs::run(&arguments).await,
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
