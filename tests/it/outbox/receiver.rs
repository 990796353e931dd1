//! Receivers of events, and a service that sends to them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::config::{AllowedAddresses, OutboundConfig};

use crate::support::program::{Ran, program_on, run_beside};
use crate::support::service::Options;
use crate::support::{TestDatabase, TestService};

/// How a receiver answers.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// To an address that takes everything.
    Redirect,
    Hang,
    /// 200, once it is told to.
    After(Arc<tokio::sync::Notify>),
    /// 200, and ten megabytes.
    Huge,
}

/// What came.
#[derive(Debug, Clone)]
pub struct Taken {
    pub headers: HeaderMap,
    pub body: String,
}

impl Taken {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    state: Arc<Mutex<Script>>,
}

struct Script {
    replies: VecDeque<Reply>,
    always: Reply,
    /// Answered otherwise, whatever the script says.
    of_subject: Option<(String, Reply)>,
    taken: Vec<Taken>,
}

async fn take(State(receiver): State<Receiver>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/elsewhere" {
        return StatusCode::OK.into_response();
    }
    let body = axum::body::to_bytes(body, 1 << 22).await.unwrap();
    let taken = Taken {
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let reply = {
        let mut script = receiver.state.lock().unwrap();
        let subject = taken.event()["subject"].clone();
        script.taken.push(taken);
        match &script.of_subject {
            Some((named, reply)) if subject == json!(named) => reply.clone(),
            _ => {
                let always = script.always.clone();
                script.replies.pop_front().unwrap_or(always)
            }
        }
    };
    match reply {
        Reply::Status(status) => {
            (StatusCode::from_u16(status).unwrap(), "so it is").into_response()
        }
        Reply::Redirect => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        Reply::Hang => std::future::pending().await,
        Reply::After(told) => {
            told.notified().await;
            StatusCode::OK.into_response()
        }
        Reply::Huge => Body::from(vec![b'x'; 10 << 20]).into_response(),
    }
}

impl Receiver {
    pub async fn start(always: Reply) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hooks", listener.local_addr().unwrap()),
            state: Arc::new(Mutex::new(Script {
                replies: VecDeque::new(),
                always,
                of_subject: None,
                taken: Vec::new(),
            })),
        };
        let router = axum::Router::new()
            .fallback(take)
            .with_state(receiver.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        receiver
    }

    pub fn then(&self, replies: &[Reply]) {
        self.state
            .lock()
            .unwrap()
            .replies
            .extend(replies.iter().cloned());
    }

    pub fn always(&self, reply: Reply) {
        self.state.lock().unwrap().always = reply;
    }

    pub fn to_subject(&self, subject: &str, reply: Reply) {
        self.state.lock().unwrap().of_subject = Some((subject.to_owned(), reply));
    }

    pub fn all(&self) -> Vec<Taken> {
        self.state.lock().unwrap().taken.clone()
    }

    /// Waits until something came that `is` it.
    pub async fn until(&self, what: &str, is: impl Fn(&Taken) -> bool) -> Taken {
        for _ in 0..2_500 {
            if let Some(found) = self.all().into_iter().find(|taken| is(taken)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seen: Vec<Value> = self
            .all()
            .iter()
            .map(|taken| taken.event()["type"].clone())
            .collect();
        panic!("{what} did not come, but {seen:?}");
    }

    /// Waits for an event of a type.
    pub async fn of_type(&self, event_type: &str) -> Taken {
        self.until(event_type, |taken| taken.event()["type"] == event_type)
            .await
    }

    /// Waits for `count` deliveries.
    pub async fn count(&self, count: usize) -> Vec<Taken> {
        for _ in 0..2_500 {
            let all = self.all();
            if all.len() >= count {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {count} came", self.all().len());
    }
}

/// A service whose endpoints may be on this host.
pub async fn service() -> TestService {
    TestService::with(Options {
        outbound: OutboundConfig {
            allowed: AllowedAddresses {
                loopback: true,
                ..AllowedAddresses::default()
            },
            ..OutboundConfig::default()
        },
        ..Options::default()
    })
    .await
}

/// `events …`, with endpoints on this host allowed.
pub async fn events(db: &TestDatabase, arguments: &[&str]) -> Ran {
    let mut all = vec!["events"];
    all.extend(arguments);
    let mut command = program_on(db, &all);
    command.env("EVENTS_ALLOW_LOOPBACK", "true");
    run_beside(command).await
}

/// An endpoint of `receiver`: its id and secret.
pub async fn endpoint(db: &TestDatabase, receiver: &Receiver, more: &[&str]) -> (String, String) {
    let mut arguments = vec!["endpoints", "create", "--url", &receiver.url, "--json"];
    arguments.extend(more);
    let ran = events(db, &arguments).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let made = ran.json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Changes the organization's state.
pub async fn change(service: &TestService, organization: Uuid, projects: usize) {
    let (organization, value) = (organization.to_string(), projects.to_string());
    let arguments = [
        "features",
        "set",
        "--organization",
        &organization,
        "--feature",
        "projects",
        "--value",
        &value,
        "--reason",
        "a promise",
    ];
    let ran = run_beside(program_on(&service.db, &arguments)).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

/// Has whatever waits for its next attempt be due.
pub async fn let_retries_be_due(service: &TestService) {
    service
        .db
        .execute(
            "UPDATE outbound_lanes SET due_at = now(), lease_id = NULL WHERE due_at IS NOT NULL;
             UPDATE outbound_deliveries SET next_attempt_at = now() WHERE status = 'pending'",
        )
        .await;
}

/// Waits until a count is reached.
pub async fn until_count(service: &TestService, table_and_condition: &str, count: i64) {
    for _ in 0..2_500 {
        if service.db.count(table_and_condition).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{table_and_condition}: {}, not {count}",
        service.db.count(table_and_condition).await
    );
}
