//! Posts events. A name is looked up once, every address it has is checked, and those
//! very addresses are dialled: no second look-up may say something else.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address;
use super::event::MEDIA_TYPE;
use super::signature;
use crate::config::{AllowedAddresses, WebhookSecret};
use crate::http_client;

/// How long the client waits for an answer, from the look-up to its last byte.
const TIMEOUT: Duration = http_client::TIMEOUT;
/// How much of an answer is read.
const READ_BYTES: usize = 64 * 1024;
/// How much of it is kept.
const EXCERPT_CHARS: usize = 500;

/// A client for endpoints.
#[derive(Clone)]
pub struct Poster {
    client: reqwest::Client,
    /// `None` for an address of the configuration or of the command line, which is trusted.
    allowed: Option<AllowedAddresses>,
}

/// What came of a post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `None`: there was no answer.
    pub status: Option<u16>,
    /// Its beginning.
    pub excerpt: Option<String>,
    /// `None`: the event was taken.
    pub error: Option<String>,
}

/// What is posted.
pub struct Message<'a> {
    pub id: &'a str,
    pub body: &'a str,
}

impl Poster {
    /// For endpoints that operators enter.
    pub fn guarded(allowed: &AllowedAddresses) -> Result<Self, reqwest::Error> {
        let resolver = Checked(Arc::new(allowed.clone()));
        Ok(Self {
            client: http_client::resolving_client(Arc::new(resolver))?,
            allowed: Some(allowed.clone()),
        })
    }

    /// For addresses that need no check.
    pub fn trusting() -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: http_client::direct_client()?,
            allowed: None,
        })
    }

    /// Posts a message, signed at `now`.
    pub async fn post(
        &self,
        url: &Url,
        secrets: &[WebhookSecret],
        message: &Message<'_>,
        now: Timestamp,
    ) -> Answer {
        let allowed = self.allowed.as_ref();
        if let Some(Err(refused)) = allowed.map(|allowed| address::check_literal(url, allowed)) {
            return Answer::none(refused.to_string());
        }
        self.send(url, secrets, message, now).await
    }

    async fn send(
        &self,
        url: &Url,
        secrets: &[WebhookSecret],
        message: &Message<'_>,
        now: Timestamp,
    ) -> Answer {
        let at = now.as_second();
        let sent = self
            .client
            .post(url.clone())
            .header("content-type", MEDIA_TYPE)
            .header("webhook-id", message.id)
            .header("webhook-timestamp", at.to_string())
            .header(
                "webhook-signature",
                signature::sign(secrets, message.id, at, message.body),
            )
            .body(message.body.to_owned())
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Answer::none(reason(error)),
        };
        let status = response.status();
        let excerpt = excerpt(response).await;
        let error = if status.is_success() {
            None
        } else if status.is_redirection() {
            Some(format!(
                "the endpoint answered {status}; redirects are not followed: give the final address"
            ))
        } else {
            Some(format!("the endpoint answered {status}"))
        };
        Answer {
            status: Some(status.as_u16()),
            excerpt,
            error,
        }
    }
}

impl Answer {
    fn none(error: String) -> Self {
        Self {
            status: None,
            excerpt: None,
            error: Some(error),
        }
    }

    /// Whether the endpoint says that it is gone for good.
    pub fn is_gone(&self) -> bool {
        self.status == Some(410)
    }
}

fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    http_client::reason(error)
}

/// The beginning of an answer. How it ends does not matter: the status has said all.
async fn excerpt(response: reqwest::Response) -> Option<String> {
    let mut read = Vec::new();
    let mut body = response.bytes_stream();
    let reading = async {
        while let Some(Ok(chunk)) = body.next().await {
            let room = READ_BYTES - read.len();
            read.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if read.len() == READ_BYTES {
                break;
            }
        }
    };
    // A body that never ends says nothing about what was taken.
    let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
    let text = String::from_utf8_lossy(&read);
    let shown: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(EXCERPT_CHARS)
        .collect();
    (!shown.is_empty()).then_some(shown)
}

/// Looks names up, and refuses those that lead to an address that is not allowed.
struct Checked(Arc<AllowedAddresses>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            for one in &found {
                address::check(one.ip(), &allowed)
                    .map_err(|refused| Box::new(refused) as Box<dyn Error + Send + Sync>)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
