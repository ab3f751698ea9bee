//! Where a request comes from. Anybody can write an `X-Forwarded-For`; only what a trusted proxy has added to it counts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;
use verbatim_admission::Holder;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of whoever sent a request, as far as it can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Whose share a request counts for as long as its tenant is not known.
pub(crate) fn holder_by_address(extensions: &Extensions) -> Holder {
    let client = extensions.get::<ClientAddress>();
    Holder::address(client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ClientAddress(address)| *address))
}

/// The client's address: the connection's other end or, where that is a trusted proxy, whom the proxy names. What has no
/// connection, as in tests without one, comes from `0.0.0.0`.
pub(crate) fn client_address(request: &Request, trusted: &[IpNet]) -> ClientAddress {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    ClientAddress(behind_proxies(peer, request.headers(), trusted))
}

/// Each proxy appends the address that it was called from, so the list is read from its end, for as long as whoever
/// wrote an entry is trusted.
fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let entries = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = entries.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    let mut address = peer.to_canonical();
    while is_trusted(&address) {
        let Some(named) = entries.next().and_then(parse) else { break };
        address = named;
    }
    address
}

/// An entry is an address, for some proxies with a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let address = entry.parse().or_else(|_| entry.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let headers =
            forwarded.iter().map(|value| (FORWARDED_FOR, HeaderValue::from_str(value).unwrap())).collect();
        behind_proxies(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn strangers_cannot_choose_their_address() {
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        // The client wrote the first entry, the proxy the second.
        assert_eq!(seen("10.0.0.2", &["198.51.100.1, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.2", &["198.51.100.1", "203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn proxies_behind_proxies_are_seen_through() {
        assert_eq!(seen("10.0.0.2", &["203.0.113.9, 10.0.0.7"]), "203.0.113.9");
        assert_eq!(seen("fd00::2", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(seen("::ffff:10.0.0.2", &["203.0.113.9:4711"]), "203.0.113.9");
    }

    #[test]
    fn where_nobody_is_named_it_is_the_proxy_itself() {
        assert_eq!(seen("10.0.0.2", &[]), "10.0.0.2");
        assert_eq!(seen("10.0.0.2", &["unknown"]), "10.0.0.2");
        assert_eq!(seen("10.0.0.2", &["10.0.0.3"]), "10.0.0.3");
    }
}
