//! What will be thrown at the API, as it goes over the wire. (At the webhooks:
//! `routes/webhooks.rs`; what is thrown at usage: with its routes.)

mod callers;
mod logins;
mod requests;

use valuecanvas_billing::tenancy::auth::{self, By, Hasher, NewUser, Role};

use crate::subscriptions::world::Stripe;
use crate::support::TestService;
use crate::support::events::{event, invoice};
use crate::support::service::Options;
use crate::support::wire::Wire;

/// A request and what must come of it. `{token}` is ours; `{expired}` and
/// `{logged out}` were; `{theirs}` is another organization's id, and
/// `{cursor}` a cursor that it was given.
#[derive(Clone)]
pub struct Case {
    what: &'static str,
    line: &'static str,
    headers: Vec<u8>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

pub fn case(what: &'static str, line: &'static str, status: u16, code: &'static str) -> Case {
    Case {
        what,
        line,
        headers: b"authorization: Bearer {token}\r\n".to_vec(),
        body: Vec::new(),
        status,
        code,
    }
}

impl Case {
    /// These headers, and no others.
    pub fn headers(mut self, headers: impl AsRef<[u8]>) -> Self {
        self.headers = headers.as_ref().to_vec();
        self
    }

    pub fn and(mut self, header: impl AsRef<[u8]>) -> Self {
        self.headers.extend(header.as_ref());
        self.headers.extend(b"\r\n");
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.and("content-type: application/json")
    }
}

#[tokio::test]
async fn each_is_answered_as_it_should_be() {
    let target = Target::prepare().await;
    let cases = [
        callers::credentials(),
        callers::others(),
        requests::bodies(),
        requests::queries(),
        logins::all(),
    ];
    let mut wrong = Vec::new();
    for case in cases.concat() {
        let reply = target.send(&case).await;
        if reply != (case.status, case.code.to_owned()) {
            wrong.push(format!(
                "{}: {reply:?}, not {} {}",
                case.what, case.status, case.code
            ));
        }
    }
    assert_eq!(wrong, [""; 0]);
    let subscriptions = target.service.db.count("billing_stripe_requests").await;
    assert_eq!(subscriptions, 0, "nothing was subscribed to");
}

/// A line end in a header would be two headers, or two requests.
#[tokio::test]
async fn a_line_end_in_a_header_adds_none_to_the_answer() {
    let target = Target::prepare().await;
    for smuggled in [
        "x\r\nset-cookie: a=b",
        "x\nset-cookie: a=b",
        "x\rset-cookie: a=b",
        "x%0d%0aset-cookie: a=b",
    ] {
        let mut wire = Wire::open(&target.service.base).await;
        let request = format!(
            "GET /api/billing/plans HTTP/1.1\r\nhost: test\r\nx-request-id: {smuggled}\r\ncontent-length: 0\r\n\r\n"
        );
        wire.send(request).await;
        let reply = wire.answer().await;
        assert!(matches!(reply.status, 400 | 401), "{smuggled:?}: {reply:?}");
        assert_eq!(reply.header("set-cookie"), None, "{smuggled:?}");
    }
    // Two lengths, or a length and chunks: one request is two to somebody.
    for lengths in [
        "content-length: 0\r\ncontent-length: 5",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, identity",
        "content-length: +5",
    ] {
        let mut wire = Wire::open(&target.service.base).await;
        let smuggled = "0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: test\r\n\r\n";
        let request =
            format!("POST /api/auth/login HTTP/1.1\r\nhost: test\r\n{lengths}\r\n\r\n{smuggled}");
        wire.send(request).await;
        let reply = wire.answer_without_body().await;
        assert!((400..500).contains(&reply.status), "{lengths}: {reply:?}");
    }
}

/// The service, with what the cases speak of.
struct Target {
    service: TestService,
    _stripe: Stripe,
    words: Vec<(&'static str, String)>,
}

impl Target {
    async fn prepare() -> Self {
        let stripe = Stripe::start().await;
        let service = TestService::with(Options {
            stripe_api: Some(stripe.api()),
            ..Options::default()
        })
        .await;
        let ours = service.db.organization("cus_1").await;
        let theirs = service.db.organization("cus_2").await;
        for (n, id) in ["in_theirs", "in_theirs_2"].into_iter().enumerate() {
            let bill = invoice(id, "cus_2", "sub_1", "open");
            let name = format!("evt_{n}");
            service
                .deliver(&event(&name, "invoice.finalized", 1, bill))
                .await;
        }
        service.settle().await;
        let new = NewUser {
            email: "owner@example.com".to_owned(),
            role: Role::Owner,
            organization_id: Some(ours),
            password: "test123".to_owned(),
        };
        let pool = service.db.service_pool();
        auth::create_user(&pool, &Hasher::default(), new, &By::SYSTEM)
            .await
            .unwrap();

        let expired = service.token(ours, Role::Owner).await;
        let end = "UPDATE user_sessions SET expires_at = now()";
        service.db.execute(end).await;
        let logged_out = service.token(ours, Role::Owner).await;
        let logout = service.post("/api/auth/logout").bearer_auth(&logged_out);
        assert_eq!(logout.send().await.unwrap().status(), 204);
        let token = service.token(ours, Role::Owner).await;
        let other = service.token(theirs, Role::Owner).await;
        let page = service
            .get("/api/billing/invoices?limit=1")
            .bearer_auth(other);
        let page: serde_json::Value = page.send().await.unwrap().json().await.unwrap();
        let cursor = page["nextCursor"].as_str().unwrap().to_owned();
        let words = vec![
            ("{half}", token[..token.len() / 2].to_owned()),
            ("{TOKEN}", token.to_uppercase()),
            ("{token}", token),
            ("{expired}", expired),
            ("{logged out}", logged_out),
            ("{theirs}", theirs.to_string()),
            ("{cursor}", cursor),
        ];
        Self {
            service,
            _stripe: stripe,
            words,
        }
    }

    fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return bytes.to_vec();
        };
        let fill = |text: String, (word, value): &(&str, String)| text.replace(word, value);
        self.words.iter().fold(text.to_owned(), fill).into_bytes()
    }

    /// The status, and the code where it is a problem.
    async fn send(&self, case: &Case) -> (u16, String) {
        let body = self.fill(&case.body);
        let line = self.fill(case.line.as_bytes());
        let mut request = line;
        request.extend(b" HTTP/1.1\r\nhost: test\r\n");
        request.extend(self.fill(&case.headers));
        request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
        request.extend(body);
        let mut wire = Wire::open(&self.service.base).await;
        // It may be answered before all of it is sent.
        let _ = wire.try_send(request).await;
        let reply = wire.answer().await;
        (reply.status, reply.code())
    }
}
