//! Sessions of browsers: a cookie holds the token, and every form a proof that a page of
//! this session made it.

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::token::{self, Credential};

/// The cookie of the pages' sessions. The API reads none.
#[derive(Debug, Clone, Copy)]
pub struct SessionCookie {
    /// Whether browsers reach the service by https.
    secure: bool,
    /// Whether it is kept in a frame of another site's page, for that site alone.
    framed: bool,
}

impl SessionCookie {
    pub fn new(secure: bool) -> Self {
        Self {
            secure,
            framed: false,
        }
    }

    /// The same for pages that others may frame. By http, browsers keep no such cookie.
    pub fn framed(self, framed: bool) -> Self {
        Self {
            framed: framed && self.secure,
            ..self
        }
    }

    /// With the prefix, no other host of the domain can set it.
    fn name(self, name: &str) -> String {
        let prefix = if self.secure { "__Host-" } else { "" };
        format!("{prefix}{name}")
    }

    /// The value of `Set-Cookie` for `value`; it ends with the browser's session, and ours
    /// before.
    pub fn set(self, name: &str, value: &str) -> String {
        let rest = match (self.framed, self.secure) {
            (true, _) => "SameSite=None; Secure; Partitioned",
            (false, true) => "SameSite=Lax; Secure",
            (false, false) => "SameSite=Lax",
        };
        let name = self.name(name);
        format!("{name}={value}; Path=/; HttpOnly; {rest}")
    }

    /// The same that removes it.
    pub fn clear(self, name: &str) -> String {
        format!("{}; Max-Age=0", self.set(name, ""))
    }

    /// The one cookie of this name; none where there are two, as one is somebody else's.
    pub fn read(self, name: &str, headers: &HeaderMap) -> Option<String> {
        let name = self.name(name);
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines.filter_map(|line| line.to_str().ok());
        let pairs = pairs.flat_map(|line| line.split(';'));
        let mut values = pairs.filter_map(|pair| {
            let (own, value) = pair.trim().split_once('=')?;
            (own == name).then(|| value.to_owned())
        });
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// The session token of a request.
    pub(super) fn session(self, headers: &HeaderMap) -> Option<(String, Credential)> {
        let token = self.read(SESSION, headers)?;
        let credential = token::parse(&token)?;
        matches!(credential, Credential::Session(_)).then_some((token, credential))
    }
}

impl SessionCookie {
    /// The session of the customer pages that a request has.
    pub(super) fn portal_session(self, headers: &HeaderMap) -> Option<(String, Credential)> {
        let token = self.read(BrowserSession::PORTAL_COOKIE, headers)?;
        let credential = token::parse_portal(&token)?;
        Some((token, credential))
    }
}

/// The name of the cookie with the session.
pub const SESSION: &str = "console";

/// A browser's valid session. It has no `Debug`: the token stays out of logs.
#[derive(Clone)]
pub struct BrowserSession {
    token: String,
}

impl BrowserSession {
    pub const COOKIE: &str = SESSION;
    pub const PORTAL_COOKIE: &str = "portal";

    pub fn new(token: String) -> Self {
        Self { token }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// What every form of this session sends along. It says nothing of the token.
    pub fn form_token(&self) -> String {
        let hash = Sha256::digest(format!("form {}", self.token));
        hex::encode(hash)
    }

    /// Whether a page of this session made the form.
    pub fn made(&self, form_token: &str) -> bool {
        let own = self.form_token();
        own.as_bytes().ct_eq(form_token.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_cookie_of_the_name_is_read_and_two_are_not() {
        let plain = SessionCookie::new(false);
        let read = |cookies: &[&'static str]| plain.read("console", &headers(cookies));
        assert_eq!(read(&["a=1; console=x; b=2"]).as_deref(), Some("x"));
        assert_eq!(read(&["a=1"]), None);
        assert_eq!(read(&["console=x; console=y"]), None);
        assert_eq!(read(&["console=x", "console=y"]), None);
    }

    #[test]
    fn by_https_only_this_host_can_set_it() {
        let secure = SessionCookie::new(true);
        assert_eq!(secure.read("console", &headers(&["console=x"])), None);
        let host = headers(&["__Host-console=x"]);
        assert_eq!(secure.read("console", &host).as_deref(), Some("x"));
        let set = secure.set("console", "x");
        assert_eq!(
            set,
            "__Host-console=x; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
    }

    #[test]
    fn in_frames_it_is_kept_for_the_site_around_it() {
        let framed = |secure| SessionCookie::new(secure).framed(true);
        let set = framed(true).set("portal", "x");
        let expected = "__Host-portal=x; Path=/; HttpOnly; SameSite=None; Secure; Partitioned";
        assert_eq!(set, expected);
        let plain = framed(false).set("portal", "x");
        assert_eq!(plain, "portal=x; Path=/; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn a_form_is_of_one_session() {
        let (one, other) = (token::new_session(), token::new_session());
        let (one, other) = (BrowserSession::new(one), BrowserSession::new(other));
        assert!(one.made(&one.form_token()));
        assert!(!one.made(&other.form_token()));
        assert!(!one.made(""));
        assert!(!one.made(one.token()));
    }
}
