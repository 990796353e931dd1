//! HTTP clients for hosts that we call.

use std::time::Duration;

/// A client for hosts elsewhere, by the environment's proxy.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    client(reqwest::Client::builder)
}

/// A client for services of this host, which no proxy reaches.
pub fn direct_client() -> Result<reqwest::Client, reqwest::Error> {
    client(|| reqwest::Client::builder().no_proxy())
}

fn client(builder: fn() -> reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    // Only the first call installs it; a second finds it there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A redirect is the answer: whoever is asked does not say whom else we ask,
    // nor is a POST that became a GET of some page a success.
    builder()
        .timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// Why a call failed, down to its cause (a certificate, a refused connection),
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

/// Whether a URL is of this host.
pub fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
