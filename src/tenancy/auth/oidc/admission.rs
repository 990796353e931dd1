//! How many answers of browsers are asked of the provider: anybody can make one up, and the
//! provider counts what we ask of it.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::Failure;
use crate::audit::Client;
use crate::server::budget::network;
use crate::tenancy::auth::admission::{AdmittedLogin, LoginAdmission};
use crate::tenancy::auth::token;

/// Answers of one address in a minute. This host's own have no such limit: they stand for
/// many, behind a proxy that is not named in TRUSTED_PROXIES.
const OF_ADDRESS: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");
/// After how many of them the addresses are forgotten that sent none lately.
const FORGOTTEN_AFTER: u32 = 4_096;

/// As many at once as logins, and as many of one address.
pub struct Admission {
    at_once: LoginAdmission,
    of: DefaultKeyedRateLimiter<IpAddr>,
    counted: AtomicU32,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            at_once: LoginAdmission::default(),
            of: RateLimiter::keyed(Quota::per_minute(OF_ADDRESS)),
            counted: AtomicU32::new(0),
        }
    }
}

impl Admission {
    /// Lets an answer of the client's be asked about, until what is returned is dropped.
    pub fn admit(&self, client: &Client) -> Result<AdmittedLogin, Failure> {
        let from = client.ip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), network);
        let counted = self.counted.fetch_add(1, Ordering::Relaxed);
        if counted % FORGOTTEN_AFTER == FORGOTTEN_AFTER - 1 {
            self.of.retain_recent();
            self.of.shrink_to_fit();
        }
        let often = !from.is_loopback() && self.of.check_key(&from).is_err();
        let address = token::hash(&format!("address {from}"));
        let at_once = self.at_once.admit(&address, &address);
        match at_once {
            Ok(admitted) if !often => Ok(admitted),
            _ => Err(Failure::Busy),
        }
    }
}
