//! Which addresses an endpoint may have. A URL must not make this service call a host that
//! only this service can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use crate::config::{AllowedAddresses, is_loopback};

const LONGEST: usize = 2_000;

/// Why a URL or an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the address is not a URL such as https://app.example.com/webhooks")]
    NoUrl,
    #[error(
        "the address must begin with https://; http:// is for this host, with EVENTS_ALLOW_LOOPBACK=true"
    )]
    NotHttps,
    #[error("the address has a user name or a password; remove it: events are signed")]
    UserInfo,
    #[error("the address has a fragment (#…), which is never sent; remove it")]
    Fragment,
    #[error("the address has port 0")]
    Port,
    #[error("the address may have {LONGEST} characters")]
    TooLong,
    #[error(
        "{0} is not a public address; EVENTS_ALLOWED_NETWORKS may name its network, EVENTS_ALLOW_LOOPBACK=true allows this host"
    )]
    NotPublic(IpAddr),
    #[error("the address has no name that could be looked up")]
    NoName,
}

/// Reads the URL of an endpoint, without looking its name up.
pub fn read_url(text: &str, allowed: &AllowedAddresses) -> Result<Url, Refused> {
    if text.len() > LONGEST {
        return Err(Refused::TooLong);
    }
    let url = Url::parse(text.trim()).map_err(|_| Refused::NoUrl)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(Refused::NoUrl);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(Refused::Fragment);
    }
    if url.scheme() == "http" && !(allowed.loopback && is_loopback(&url)) {
        return Err(Refused::NotHttps);
    }
    if url.port() == Some(0) {
        return Err(Refused::Port);
    }
    check_literal(&url, allowed)?;
    Ok(url)
}

/// An endpoint's address as it is shown, logged and entered: without what may be a secret.
pub fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Only addresses without a host refuse these.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.into()
        }
        Err(_) => "(no URL)".to_owned(),
    }
}

/// Checks an address that a URL spells out: no resolver sees it.
pub fn check_literal(url: &Url, allowed: &AllowedAddresses) -> Result<(), Refused> {
    let host = url.host_str().ok_or(Refused::NoUrl)?;
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => check(address, allowed),
        Err(_) if host.trim_end_matches('.').is_empty() => Err(Refused::NoName),
        Err(_) => Ok(()),
    }
}

/// Checks an address that is about to be dialled.
pub fn check(address: IpAddr, allowed: &AllowedAddresses) -> Result<(), Refused> {
    // ::ffff:10.0.0.1 is 10.0.0.1, for the kernel as well.
    let address = address.to_canonical();
    let in_networks = allowed.networks.iter().any(|one| one.contains(address));
    if is_public(address) || in_networks || allowed.loopback && address.is_loopback() {
        Ok(())
    } else {
        Err(Refused::NotPublic(address))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The networks of IPv4 that are not the internet's, by IANA's registry of special
/// purposes. Clouds have their metadata in 169.254.0.0/16 or 100.64.0.0/10.
const SPECIAL_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    let mut special = SPECIAL_V4.iter();
    !special.any(|(network, prefix)| {
        let network = u32::from(Ipv4Addr::from(*network));
        (bits ^ network).leading_zeros() >= *prefix
    })
}

/// Of IPv6 only the global unicast addresses that are handed out, without those that
/// stand for others (6to4, Teredo, NAT64 lies outside).
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let special = segments[0] == 0x2001 && segments[1] < 0x0200;
    let documentation = segments[0] == 0x2001 && segments[1] == 0x0db8;
    let wide_documentation = segments[0] == 0x3fff && segments[1] < 0x1000;
    let six_to_four = segments[0] == 0x2002;
    global && !special && !documentation && !wide_documentation && !six_to_four
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> AllowedAddresses {
        AllowedAddresses::default()
    }

    #[test]
    fn only_public_addresses_are_dialled() {
        let may = |text: &str| check(text.parse().unwrap(), &strict()).is_ok();
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "172.32.0.1",
            "100.128.0.1",
        ] {
            assert!(may(public), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a00:1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "2001:10::1",
            "100::1",
            "fec0::1",
        ] {
            assert!(!may(private), "{private}");
        }
    }

    #[test]
    fn a_url_is_checked_before_anything_is_sent() {
        let refused = |text: &str| read_url(text, &strict()).err();
        assert_eq!(refused("https://app.example.com/hooks?x=1"), None);
        assert_eq!(refused("http://app.example.com/"), Some(Refused::NotHttps));
        assert_eq!(refused("http://localhost/"), Some(Refused::NotHttps));
        assert_eq!(
            refused("https://me:pw@app.example.com/"),
            Some(Refused::UserInfo)
        );
        assert_eq!(
            refused("https://me@app.example.com/"),
            Some(Refused::UserInfo)
        );
        assert_eq!(
            refused("https://app.example.com/#part"),
            Some(Refused::Fragment)
        );
        assert_eq!(refused("ftp://app.example.com/"), Some(Refused::NoUrl));
        assert_eq!(refused("app.example.com"), Some(Refused::NoUrl));
        // Other spellings of 127.0.0.1, and one of the metadata service.
        for spelled in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest/meta-data",
        ] {
            assert!(
                matches!(refused(spelled), Some(Refused::NotPublic(_))),
                "{spelled}"
            );
        }
    }

    #[test]
    fn settings_allow_more() {
        let allowed = AllowedAddresses {
            loopback: true,
            ..strict()
        };
        assert!(read_url("http://127.0.0.1:3000/x", &allowed).is_ok());
        assert!(read_url("http://localhost:3000/x", &allowed).is_ok());
        assert_eq!(
            read_url("http://10.0.0.1/", &allowed),
            Err(Refused::NotHttps)
        );
        assert!(read_url("https://10.0.0.1/", &allowed).is_err());
    }
}
