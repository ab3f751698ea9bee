//! The holder of permits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The party that a share belongs to: a tenant or, where callers present no keys, a client's address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(Name);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Name {
    Tenant(Arc<str>),
    Address(IpAddr),
    Unknown(u64),
}

impl Holder {
    /// A tenant.
    pub fn tenant(name: impl Into<Arc<str>>) -> Self {
        Self(Name::Tenant(name.into()))
    }

    /// One of many parties that cannot be told apart, by a number of its own: a connection of a proxy, say. It counts for
    /// nobody else, and is no newcomer (see [`crate::Reserve`]), since anybody may be many of them.
    pub fn unknown(number: u64) -> Self {
        Self(Name::Unknown(number))
    }

    /// Whether the holder can be told from others, so that permits can be kept for it until it comes.
    pub fn is_known(&self) -> bool {
        !matches!(self.0, Name::Unknown(_))
    }

    /// A client by its address: one IPv4 address, or one IPv6 network of 64 bits, which a single host has to itself
    /// (RFC 6177).
    pub fn address(address: IpAddr) -> Self {
        Self(Name::Address(network(address)))
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Tenant(name) => write!(f, "tenant {name}"),
            Name::Address(address) => write!(f, "address {address}"),
            Name::Unknown(number) => write!(f, "unknown {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Holder {
        Holder::address(text.parse().unwrap())
    }

    #[test]
    fn one_ipv6_host_is_one_holder_and_so_is_one_ipv4_address_however_it_is_written() {
        assert_eq!(address("2001:db8:1:2:3:4:5:6"), address("2001:db8:1:2::"));
        assert_ne!(address("2001:db8:1:2::"), address("2001:db8:1:3::"));
        assert_eq!(address("::ffff:203.0.113.9"), address("203.0.113.9"));
        assert_ne!(address("203.0.113.8"), address("203.0.113.9"));
    }

    #[test]
    fn a_tenant_named_like_an_address_is_not_that_address() {
        assert_ne!(Holder::tenant("203.0.113.9"), address("203.0.113.9"));
    }
}
