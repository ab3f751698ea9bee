//! `verbatim openapi`, `verbatim completions`, `verbatim man`: what is derived from the code.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;

/// Prints the OpenAPI document, as committed in `openapi.json`.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn openapi() -> anyhow::Result<()> {
    println!("{}", verbatim_api_lib::openapi().to_pretty_json()?);
    Ok(())
}

/// Prints completions for `shell`.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "verbatim", &mut std::io::stdout());
}

/// Writes a manual page for each command into `folder`.
///
/// # Errors
/// When the folder cannot be written to.
pub fn man(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
    eprintln!("manual pages are in {}; read one with: man {}/verbatim.1", folder.display(), folder.display());
    Ok(())
}
