//! The command line: what can be asked, with its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use verbatim_core::ids::SubmissionId;
use verbatim_core::render::TranscriptFormat;

use crate::config::Overrides;

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
    /// Transcribe files right here, without a server
    Transcribe(TranscribeArgs),
    /// Send files to a server and print their transcripts
    Submit(SubmitArgs),
    /// Look at the jobs of a server
    Jobs(JobsArgs),
    /// Look at, fetch and find models
    #[command(subcommand)]
    Models(ModelsCommand),
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
    /// Address and port to listen on [default: 127.0.0.1:8080]
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
    pub fn overrides(&self) -> Overrides {
        Overrides { listen: self.listen, data_dir: self.data_dir.clone(), model: self.model.clone() }
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
