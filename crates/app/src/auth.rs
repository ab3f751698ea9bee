//! Whether callers need an API key.

use anyhow::bail;

use crate::config::Config;

/// Whether callers need a key. What is configured wins; else a cluster asks for keys, and one process does not.
///
/// # Errors
/// When anybody who reaches this machine over the network could come in without anybody having said so.
pub fn keys_required(config: &Config) -> anyhow::Result<bool> {
    if let Some(required) = config.auth.required {
        return Ok(required);
    }
    if config.redis.url.is_some() {
        return Ok(true);
    }
    let address = config.server.listen;
    if !address.ip().is_loopback() {
        bail!(
            "on {address} other machines could use this service without an API key: set VERBATIM__AUTH__REQUIRED=true and \
             make a key with `verbatim keys create`, or set it to false if something else keeps strangers out"
        );
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(required: Option<bool>, listen: &str, redis: Option<&str>) -> anyhow::Result<bool> {
        let mut config = Config::default();
        config.auth.required = required;
        config.server.listen = listen.parse()?;
        config.redis.url = redis.map(Into::into);
        keys_required(&config)
    }

    #[test]
    fn what_is_configured_wins() {
        for listen in ["127.0.0.1:1", "0.0.0.0:1"] {
            for redis in [None, Some("redis://a")] {
                assert!(asked(Some(true), listen, redis).unwrap());
                assert!(!asked(Some(false), listen, redis).unwrap());
            }
        }
    }

    #[test]
    fn a_cluster_asks_for_keys_and_a_process_on_its_own_machine_does_not() {
        assert!(asked(None, "127.0.0.1:1", Some("redis://a")).unwrap());
        assert!(asked(None, "0.0.0.0:1", Some("redis://a")).unwrap());
        assert!(!asked(None, "127.0.0.1:1", None).unwrap());
        assert!(!asked(None, "[::1]:1", None).unwrap());
    }

    #[test]
    fn nobody_opens_to_the_network_by_accident() {
        for listen in ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:8080"] {
            let refused = asked(None, listen, None).unwrap_err().to_string();
            assert!(refused.contains(listen) && refused.contains("VERBATIM__AUTH__REQUIRED"), "{refused}");
        }
    }
}
