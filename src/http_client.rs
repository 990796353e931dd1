//! HTTP clients for the hosts that we call.

use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;

/// How long a call may take, with its answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A client for other hosts, through the environment's proxy.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    client(reqwest::Client::builder)
}

/// A client for services on this host, past any proxy.
pub fn direct_client() -> Result<reqwest::Client, reqwest::Error> {
    client(|| reqwest::Client::builder().no_proxy())
}

/// A client that asks `resolver` for every name, past any proxy: what a proxy would look
/// up, nobody has checked.
pub fn resolving_client(
    resolver: Arc<impl Resolve + 'static>,
) -> Result<reqwest::Client, reqwest::Error> {
    client(|| reqwest::Client::builder().no_proxy().dns_resolver(resolver))
}

fn client(
    builder: impl FnOnce() -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, reqwest::Error> {
    // Only the first call installs it; later ones fail, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Redirects are not followed: the other side does not choose whom we call,
    // and a POST that became a GET of some page is no success.
    builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Why a call failed, down to the cause (a certificate, a refused connection),
/// without the URL, which may hold a secret.
pub fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !said.contains(&next) {
            said.push_str(": ");
            said.push_str(&next);
        }
        cause = error.source();
    }
    said
}
