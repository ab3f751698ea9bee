//! `verbatim config check`

use crate::config::Config;

/// Prints what is in effect, as a `verbatim.toml` that says the same but for its secrets, which are hidden.
///
/// # Errors
/// When the configuration cannot be written as TOML.
pub fn check(config: &Config) -> anyhow::Result<()> {
    print!("{}", toml::to_string(config)?);
    Ok(())
}
