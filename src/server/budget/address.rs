//! Whom a connection or a request is put down to.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// One that may be a stranger's, and is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// This host's own, or a proxy's that we trust: it stands for many.
    Shared,
    /// An IPv6 address stands for its network of 64 bits, which its owner
    /// chooses from freely.
    Single(IpAddr),
}

impl Address {
    /// Of a connection; behind proxies each is a proxy's.
    pub fn of_peer(peer: SocketAddr, proxies: u32) -> Self {
        if proxies > 0 {
            return Self::Shared;
        }
        Self::of_ip(peer.ip())
    }

    /// Of a request: behind proxies, what the nearest of them says.
    pub fn of_request(peer: SocketAddr, headers: &HeaderMap, proxies: u32) -> Self {
        if proxies == 0 {
            return Self::of_ip(peer.ip());
        }
        forwarded_for(headers, proxies).map_or(Self::Shared, Self::of_ip)
    }

    fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Shared,
            ip => Self::Single(network(ip)),
        }
    }
}

/// What one of its kind has to itself: 64 bits of an IPv6 address.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// What the nearest of `proxies` says of where a request came from. What a
/// client writes into the header itself is further to the left, and not looked
/// at.
pub fn forwarded_for(headers: &HeaderMap, proxies: u32) -> Option<IpAddr> {
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let at = hops.len().checked_sub(proxies as usize)?;
    read(hops.get(at)?)
}

/// An address as proxies write it: with a port, or in brackets, too.
fn read(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let with_port = || Some(hop.parse::<SocketAddr>().ok()?.ip());
    hop.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, forwarded: &str, proxies: u32) -> Address {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        Address::of_request(peer.parse().unwrap(), &headers, proxies)
    }

    #[test]
    fn an_address_is_one_however_it_is_written() {
        let single = |ip: &str| Address::Single(ip.parse().unwrap());
        assert_eq!(of("192.0.2.1:1", "", 0), single("192.0.2.1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1", "", 0), single("192.0.2.1"));
        assert_eq!(of("[2001:db8::7:1]:1", "", 0), single("2001:db8::"));
        assert_eq!(of("[2001:db8::1:7:1]:1", "", 0), single("2001:db8::"));
        assert_ne!(of("[2001:db8:0:1::1]:1", "", 0), single("2001:db8::"));
    }

    #[test]
    fn a_proxy_is_not_taken_for_its_clients() {
        assert_eq!(of("127.0.0.1:1", "", 0), Address::Shared);
        assert_eq!(of("[::1]:1", "", 0), Address::Shared);
        let single = Address::Single("192.0.2.9".parse().unwrap());
        assert_eq!(of("10.0.0.1:1", "1.1.1.1, 192.0.2.9", 1), single);
        assert_eq!(of("10.0.0.1:1", "192.0.2.9, 10.0.0.2", 2), single);
        assert_eq!(of("10.0.0.1:1", "192.0.2.9", 2), Address::Shared);
        assert_eq!(of("10.0.0.1:1", "unknown", 1), Address::Shared);
        let peer = "10.0.0.1:1".parse().unwrap();
        assert_eq!(Address::of_peer(peer, 1), Address::Shared);
    }

    #[test]
    fn an_address_is_read_as_proxies_write_it() {
        for (hop, address) in [
            (" 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            assert_eq!(read(hop), address.parse().ok(), "{hop}");
        }
        for hop in ["", "unknown", "_hidden", "192.0.2.1.5", "192.0.2.1:x"] {
            assert_eq!(read(hop), None, "{hop}");
        }
    }
}
