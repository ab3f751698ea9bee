//! The command line of `verbatim-api` and `verbatim-worker`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{
    BlobsArgs, Command, ConfigCommand, CostArgs, DeadLettersArgs, KeysArgs, ModelsCommand, ServerArgs,
    ServiceArgs, TenantsArgs,
};

/// The command line of the binaries that are one node of a cluster and nothing else.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    about = "One node of a cluster; settings come from VERBATIM__… and verbatim.toml"
)]
pub struct NodeCli {
    /// Configuration file (default: verbatim.toml in the current folder, when there is one)
    #[arg(long, value_name = "FILE", env = "VERBATIM_CONFIG")]
    pub config: Option<PathBuf>,
    /// What it shares with `verbatim api` and `verbatim worker`.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// What to do instead of running the node.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
}

/// What operators do beside a running node, with the binary that is there.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Ask a server whether it is ready; exit code 0 when it is
    Healthcheck(ServerArgs),
    /// Make, list and revoke API keys, in the cluster's Redis
    Keys(KeysArgs),
    /// Look at tenants and cap them, in the cluster's Redis
    Tenants(TenantsArgs),
    /// Look at jobs that failed for good; queue them afresh or forget them
    Dlq(DeadLettersArgs),
    /// What the work has cost
    Cost(CostArgs),
    /// Look at audio and results by the job store that they belong to, and delete those of one that is gone
    Blobs(BlobsArgs),
    /// Look at, fetch and find models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

impl From<NodeCommand> for Command {
    fn from(command: NodeCommand) -> Self {
        match command {
            NodeCommand::Healthcheck(arguments) => Self::Healthcheck(arguments),
            NodeCommand::Keys(arguments) => Self::Keys(arguments),
            NodeCommand::Tenants(arguments) => Self::Tenants(arguments),
            NodeCommand::Dlq(arguments) => Self::Dlq(arguments),
            NodeCommand::Cost(arguments) => Self::Cost(arguments),
            NodeCommand::Blobs(arguments) => Self::Blobs(arguments),
            NodeCommand::Models(command) => Self::Models(command),
            NodeCommand::Config(command) => Self::Config(command),
        }
    }
}
