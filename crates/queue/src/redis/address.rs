//! Where Redis is: one server, a master that sentinels know, or a cluster.

use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisResult};
use verbatim_core::{ErrorKind, PortError};

use super::dial::tcp_settings;
use super::sentinel;

/// What a Redis URL looks like, for those who wrote one that does not.
const FORMS: &str = "write redis://[user:password@]host:port/db, rediss://… for TLS, \
    redis+sentinel://[user:password@]host:port,host:port/master-name[/db] or redis+cluster://[user:password@]host:port,host:port \
    (rediss+… for TLS)";

/// Where Redis is.
#[derive(Clone)]
pub(super) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// Ask one of the sentinels for the master.
    Sentinel(Sentinels),
    /// Ask one of the nodes for the others.
    Cluster(Vec<ConnectionInfo>),
}

/// Sentinels, and how to reach the master that they name.
#[derive(Clone)]
pub(super) struct Sentinels {
    /// Asked without a login.
    pub(super) sentinels: Vec<ConnectionInfo>,
    /// The name under which they know the master.
    pub(super) master: String,
    /// Login of the master.
    pub(super) login: RedisConnectionInfo,
    /// Whether the master speaks TLS.
    pub(super) tls: bool,
}

impl Address {
    /// The address that a URL names.
    ///
    /// # Errors
    /// `Invalid` with what a URL looks like.
    pub(super) fn parse(url: &str) -> Result<Self, PortError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if !matches!(plain, "redis" | "rediss") {
            return Err(invalid(&format!("the scheme `{scheme}` is not known")));
        }
        match kind {
            "" => Ok(Self::Server(info(url)?)),
            "cluster" => Ok(Self::Cluster(nodes(plain, rest.trim_end_matches('/'))?)),
            "sentinel" => behind_sentinels(plain, rest).map(Self::Sentinel),
            _ => Err(invalid(&format!("the scheme `{scheme}` is not known"))),
        }
    }

    /// A client of one server that hears what is published: the server, the master, or any node of the cluster, at each
    /// attempt another one.
    ///
    /// # Errors
    /// When no sentinel answers.
    pub(super) async fn subscriber(&self, attempt: usize) -> RedisResult<Client> {
        match self {
            Self::Server(info) => Client::open(info.clone()),
            Self::Cluster(nodes) => {
                let none = || (redis::ErrorKind::InvalidClientConfig, "no node is named");
                Client::open(
                    nodes.iter().cycle().nth(attempt % nodes.len().max(1)).cloned().ok_or_else(none)?,
                )
            }
            Self::Sentinel(known) => Ok(sentinel::master(known).await?.0),
        }
    }
}

fn behind_sentinels(plain: &str, rest: &str) -> Result<Sentinels, PortError> {
    let (login, hosts) = apart(rest);
    let mut parts = hosts.splitn(3, '/');
    let hosts = format!("{login}{}", parts.next().unwrap_or_default());
    let master = parts
        .next()
        .filter(|master| !master.is_empty())
        .ok_or_else(|| invalid("the name of the master is missing"))?;
    let db = match parts.next().unwrap_or_default() {
        "" => 0,
        number => number.parse().map_err(|_| invalid("the database is no number"))?,
    };
    let nodes = nodes(plain, &hosts)?;
    let first = nodes.first().ok_or_else(|| invalid("no sentinel is named"))?;
    let login = first.redis_settings().clone().set_db(db);
    let sentinels =
        nodes.into_iter().map(|node| node.set_redis_settings(RedisConnectionInfo::default())).collect();
    Ok(Sentinels { sentinels, master: master.to_owned(), login, tls: plain == "rediss" })
}

/// One URL per host; what stands before `@` is everyone's login.
fn nodes(scheme: &str, hosts: &str) -> Result<Vec<ConnectionInfo>, PortError> {
    let (login, hosts) = apart(hosts);
    hosts.split(',').map(|host| info(&format!("{scheme}://{login}{host}"))).collect()
}

/// The login with its `@`, and the rest.
fn apart(rest: &str) -> (String, &str) {
    rest.rsplit_once('@').map_or((String::new(), rest), |(login, rest)| (format!("{login}@"), rest))
}

fn info(url: &str) -> Result<ConnectionInfo, PortError> {
    let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
    Ok(info.set_tcp_settings(tcp_settings()))
}

fn invalid(why: &str) -> PortError {
    PortError::new(ErrorKind::Invalid, format!("redis.url cannot be used: {why}; {FORMS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_what_one_looks_like() {
        for bad in [
            "",
            "localhost:6379",
            "http://x",
            "redis+sentinel://a:1,b:2",
            "redis+sentinel://a:1/",
            "redis+sentinel://a:1/m/x",
        ] {
            let refusal = Address::parse(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(refusal.contains("redis+sentinel://"), "{bad}: {refusal}");
        }
    }

    #[test]
    fn every_form_is_understood() {
        for url in ["redis://h", "rediss://u:p@h:1/3", "redis://:p@127.0.0.1:6379"] {
            assert!(matches!(Address::parse(url), Ok(Address::Server(_))), "{url}");
        }
        let cluster = Address::parse("rediss+cluster://:p@a:1,b:2");
        assert!(matches!(cluster, Ok(Address::Cluster(nodes)) if nodes.len() == 2));
    }

    #[test]
    fn the_login_is_the_masters_and_no_sentinels() {
        let Ok(Address::Sentinel(known)) = Address::parse("redis+sentinel://u:p@a:1,b:2/main") else {
            panic!("sentinels are understood");
        };
        assert_eq!((known.master.as_str(), known.login.username()), ("main", Some("u")));
        assert!(known.sentinels.iter().all(|node| node.redis_settings().username().is_none()));
        assert_eq!((known.sentinels.len(), known.login.db()), (2, 0));
    }

    #[test]
    fn a_database_may_stand_behind_the_name_of_the_master() {
        let Ok(Address::Sentinel(known)) = Address::parse("redis+sentinel://u:p@a:1,b:2/main/3") else {
            panic!("sentinels are understood");
        };
        assert_eq!((known.master.as_str(), known.login.db(), known.login.password()), ("main", 3, Some("p")));
    }
}
