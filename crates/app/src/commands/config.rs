//! `verbatim config check`

use crate::config::Config;

/// Prints what is in effect, as a `verbatim.toml` that says the same. There are no secrets among the settings yet; those
/// that come are `SecretString`s, which do not serialize.
///
/// # Errors
/// When the configuration cannot be written as TOML.
pub fn check(config: &Config) -> anyhow::Result<()> {
    print!("{}", toml::to_string(config)?);
    Ok(())
}
