//! `verbatim healthcheck`

use anyhow::bail;

use crate::cli::ServerArgs;
use crate::client::Client;

/// Succeeds when the server says that it is ready.
///
/// # Errors
/// When it is not, or cannot be reached.
pub async fn run(arguments: &ServerArgs) -> anyhow::Result<()> {
    match Client::new(arguments)?.readiness().await? {
        (true, _) => {
            println!("{} is ready", arguments.server);
            Ok(())
        }
        (false, why) => bail!("{} is not ready: {why}", arguments.server),
    }
}
