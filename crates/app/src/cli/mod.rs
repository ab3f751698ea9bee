//! The command line: what can be asked, with its help.

mod backup;
mod blobs;
mod node;
mod tenants;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use verbatim_core::api_key::{KeyName, Scope};
use verbatim_core::ids::{JobId, KeyId, SubmissionId, TenantId};
use verbatim_core::options::Priority;
use verbatim_core::render::TranscriptFormat;

use crate::config::{Overrides, Role, Secret};

pub use backup::{BackupArgs, BackupOptions, RestoreArgs};
pub use blobs::{BlobsArgs, BlobsCommand};
pub use node::{NodeCli, NodeCommand};
pub use tenants::{CapArg, CapArgs, TenantsArgs, TenantsCommand};

/// Speech to text as a service: audio goes in over HTTP, the words come out.
#[derive(Debug, Parser)]
#[command(name = "verbatim", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Configuration file (default: verbatim.toml in the current folder, when there is one)
    #[arg(long, global = true, value_name = "FILE", env = "VERBATIM_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole service in one process: API, worker, local model
    Serve(ServiceArgs),
    /// Run a node of a cluster that takes jobs in; needs a Redis (redis.url)
    Api(ServiceArgs),
    /// Run a node of a cluster that works on jobs; needs a Redis (redis.url). Listens for metrics and health only
    Worker(ServiceArgs),
    /// Transcribe files right here, without a server
    Transcribe(TranscribeArgs),
    /// Send files to a server and print their transcripts
    Submit(SubmitArgs),
    /// Look at the jobs of a server
    Jobs(JobsArgs),
    /// Make, list and revoke API keys, in the data folder or the cluster's Redis
    Keys(KeysArgs),
    /// Look at tenants and cap them, in the data folder or the cluster's Redis
    Tenants(TenantsArgs),
    /// What the work has cost, from the data folder or the cluster's Redis
    Cost(CostArgs),
    /// Look at jobs of a server that failed for good; queue them afresh or forget them
    Dlq(DeadLettersArgs),
    /// Look at, fetch and find models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Back the data folder up into a tar file, while a server runs on it or without one
    Backup(BackupArgs),
    /// Restore a backup into a new or empty data folder
    Restore(RestoreArgs),
    /// Look at audio and results by the job store that they belong to, and delete those of one that is gone
    Blobs(BlobsArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask a server whether it is ready; exit code 0 when it is
    Healthcheck(ServerArgs),
    /// Print the OpenAPI document
    Openapi,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Folder to write them to
        #[arg(long, value_name = "DIR", default_value = ".")]
        output_dir: PathBuf,
    },
}

/// What the commands that run a service share.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// Address and port to listen on [default: 127.0.0.1:8080; a worker's 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Folder for database, audio and results
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The default model: a name from `verbatim models list`, or a folder [default: tiny.en]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
}

impl ServiceArgs {
    /// As overrides of the configuration.
    pub fn overrides(&self, role: Role) -> Overrides {
        Overrides { role, listen: self.listen, data_dir: self.data_dir.clone(), model: self.model.clone() }
    }
}

/// How a transcript is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum FormatArg {
    /// Plain text
    Text,
    /// Text, language and segments
    Json,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles
    Vtt,
    /// OpenAI's verbose JSON
    VerboseJson,
    /// Tab-separated start, end (milliseconds) and text
    Tsv,
}

impl From<FormatArg> for TranscriptFormat {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Text => Self::Text,
            FormatArg::Json => Self::Json,
            FormatArg::Srt => Self::Srt,
            FormatArg::Vtt => Self::Vtt,
            FormatArg::VerboseJson => Self::VerboseJson,
            FormatArg::Tsv => Self::Tsv,
        }
    }
}

/// What to hear and how to write it down.
#[derive(Debug, Clone, Args)]
pub struct SpeechArgs {
    /// The language spoken, as a code (de) or name (german); detected when absent
    #[arg(long, short, value_name = "LANG")]
    pub language: Option<String>,
    /// Translate into English instead of transcribing
    #[arg(long)]
    pub translate: bool,
    /// Text that precedes the audio: names, spelling, style
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Sampling temperature, 0 to 1; 0 is automatic
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Give words times of their own (json and verbose_json)
    #[arg(long)]
    pub words: bool,
    /// Do not skip stretches without speech
    #[arg(long)]
    pub no_vad: bool,
}

/// Files, and where their transcripts go.
#[derive(Debug, Clone, Args)]
pub struct FilesArgs {
    /// Audio files; patterns such as '*.wav' are expanded, - reads standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// How transcripts are written
    #[arg(long, short, value_enum, default_value_t = FormatArg::Text)]
    pub format: FormatArg,
    /// Write one file per transcript into this folder instead of printing
    #[arg(long, short, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
}

/// `verbatim transcribe`
#[derive(Debug, Args)]
pub struct TranscribeArgs {
    /// Files and formats.
    #[command(flatten)]
    pub files: FilesArgs,
    /// Options of the transcription.
    #[command(flatten)]
    pub speech: SpeechArgs,
    /// The model: a name from `verbatim models list`, or a folder [default: tiny.en]
    #[arg(long, short, value_name = "NAME")]
    pub model: Option<String>,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Base URL of the server
    #[arg(long, value_name = "URL", env = "VERBATIM_SERVER", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// API key, for a server that asks for one
    #[arg(long, value_name = "KEY", env = "VERBATIM_API_KEY", hide_env_values = true, value_parser = secret)]
    pub api_key: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

/// `verbatim submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Files and formats.
    #[command(flatten)]
    pub files: FilesArgs,
    /// Options of the transcription.
    #[command(flatten)]
    pub speech: SpeechArgs,
    /// The model [default: the server's]
    #[arg(long, short, value_name = "NAME")]
    pub model: Option<String>,
    /// How urgent: high, normal or low
    #[arg(long, default_value = "normal")]
    pub priority: String,
    /// Print the jobs and do not wait for the transcripts
    #[arg(long)]
    pub no_wait: bool,
    /// Print jobs as JSON, one a line (with --no-wait)
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `verbatim jobs`
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: JobsCommand,
}

/// What can be done with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    List {
        /// Only those queued, processing, completed, failed or cancelled
        #[arg(long)]
        status: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Show one job
    Get {
        /// Its id
        #[arg(value_parser = job_id)]
        id: String,
    },
    /// Follow a job until it ends, printing segments as they are decoded
    Watch {
        /// Its id
        #[arg(value_parser = job_id)]
        id: String,
    },
    /// Cancel a job, or remove one that has ended
    Cancel {
        /// Its id
        #[arg(value_parser = job_id)]
        id: String,
    },
}

/// A job's id, checked before anybody is asked about it.
fn job_id(text: &str) -> Result<String, String> {
    SubmissionId::parse(text).map(String::from).map_err(|error| error.to_string())
}

/// `verbatim keys`
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Folder of the server's database (without a Redis)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    Create(CreateKeyArgs),
    /// List keys, the oldest first, without their secrets
    List {
        /// Only those of this tenant
        #[arg(long, value_parser = tenant)]
        tenant: Option<TenantId>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// From now on the key opens nothing
    Revoke {
        /// Its id, as `verbatim keys list` shows it
        #[arg(value_parser = key_id)]
        id: KeyId,
    },
}

/// `verbatim keys create`
#[derive(Debug, Args)]
pub struct CreateKeyArgs {
    /// Whose jobs its holder sees
    #[arg(long, value_parser = tenant, value_name = "NAME")]
    pub tenant: TenantId,
    /// What to call it
    #[arg(long, default_value = "", value_parser = key_name)]
    pub name: KeyName,
    /// What it allows: jobs (submit, cancel, read), read, or admin (everything); several with commas
    #[arg(long = "scope", default_value = "jobs", value_delimiter = ',', value_parser = scope, value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// The strongest priority its holder gets: high, normal or low
    #[arg(long, default_value = "high", value_parser = priority, value_name = "PRIORITY")]
    pub max_priority: Priority,
    /// Jobs of the tenant that may run at once, by any of its keys while this one is open [default: no cap]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_running: Option<u64>,
    /// Jobs of the tenant that may wait at once; the same holds [default: no cap]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_queued: Option<u64>,
    /// Days after which it opens nothing any more [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub expires_in_days: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn tenant(text: &str) -> Result<TenantId, String> {
    TenantId::parse(text).map_err(|error| error.to_string())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).map_err(|error| error.to_string())
}

fn key_name(text: &str) -> Result<KeyName, String> {
    KeyName::parse(text).map_err(|error| error.to_string())
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| "a scope is jobs, read or admin".to_owned())
}

fn priority(text: &str) -> Result<Priority, String> {
    let named = Priority::ALL.into_iter().find(|priority| priority.as_str() == text);
    named.ok_or_else(|| "a priority is high, normal or low".to_owned())
}

/// `verbatim cost`
#[derive(Debug, Args)]
pub struct CostArgs {
    /// Folder of the server's database (without a Redis)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: CostCommand,
}

/// What can be asked about costs.
#[derive(Debug, Subcommand)]
pub enum CostCommand {
    /// Add up the last days, with the trend and the price of an hour of audio
    Report(CostReportArgs),
}

/// `verbatim cost report`
#[derive(Debug, Args)]
pub struct CostReportArgs {
    /// Days to add up, today among them (UTC)
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=400))]
    pub days: u32,
    /// One line for each
    #[arg(long, value_enum, default_value_t = Grouping::Provider)]
    pub by: Grouping,
    /// Only one job: its work id, as logs and `verbatim dlq` show it (kept for some days: twice the greatest age of a job and the retention)
    #[arg(long, value_name = "ID", value_parser = work_id, conflicts_with_all = ["days", "by"])]
    pub job: Option<JobId>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What costs are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grouping {
    /// Each provider
    Provider,
    /// Each tenant
    Tenant,
    /// Each day
    Day,
}

impl Grouping {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Tenant => "tenant",
            Self::Day => "day",
        }
    }
}

/// `verbatim dlq`
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: DeadLettersCommand,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List them, the latest failure first
    List {
        /// Only those of this tenant
        #[arg(long, value_parser = tenant)]
        tenant: Option<TenantId>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Queue one afresh
    Redrive {
        /// Its id
        #[arg(value_parser = work_id)]
        id: JobId,
    },
    /// Forget one, its audio with it
    Discard {
        /// Its id
        #[arg(value_parser = work_id)]
        id: JobId,
    },
}

fn work_id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).map_err(|error| error.to_string())
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the known models and which are here
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model, unless it is here and intact
    Pull {
        /// Names from `verbatim models list`
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Print the folder of a model
    Path {
        /// A name, or a folder
        name: String,
    },
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and print what is in effect, without secrets
    Check(ServiceArgs),
}
