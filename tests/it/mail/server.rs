//! A mail server, and a service that hands mails to it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::config::{MailConfig, SmtpConfig, SmtpSecurity};

use crate::support::events::{event, invoice};
use crate::support::service::Options;
use crate::support::{TestDatabase, TestService};

/// aiosmtpd, with what it took.
pub struct MailServer {
    pub host: String,
    pub port: u16,
    child: Child,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl MailServer {
    pub fn start() -> Self {
        Self::at("127.0.0.1", 0, &[])
    }

    /// At an address of its own, with `more` arguments.
    pub fn at(host: &str, port: u16, more: &[&Path]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("target/foreign-python/bin/python"))
            .arg(root.join("tests/foreign/python/mail_server.py"))
            .args([host, &port.to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup-foreign has installed it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("it starts").unwrap();
        let first: Value = serde_json::from_str(&first).unwrap();
        let taken = Arc::<Mutex<Vec<Value>>>::default();
        let writing = taken.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mail = serde_json::from_str(&line).unwrap();
                writing.lock().unwrap().push(mail);
            }
        });
        Self {
            host: host.to_owned(),
            port: first["port"].as_u64().unwrap().try_into().unwrap(),
            child,
            taken,
        }
    }

    /// Where the service finds it.
    pub fn config(&self) -> MailConfig {
        config(&self.host, self.port)
    }

    pub fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }

    /// Waits for `count` mails.
    pub async fn count(&self, count: usize) -> Vec<Value> {
        for _ in 0..3_000 {
            let taken = self.taken();
            if taken.len() >= count {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} mails did not come, but {:#?}", self.taken());
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn config(host: &str, port: u16) -> MailConfig {
    MailConfig {
        smtp: SmtpConfig {
            host: host.to_owned(),
            port,
            security: SmtpSecurity::None,
            login: None,
        },
        from: "Acme Billing <billing@acme.example>".parse().unwrap(),
        templates_dir: None,
    }
}

/// A service that sends mails.
pub async fn sending(mail: MailConfig) -> TestService {
    let service = TestService::with(options(mail)).await;
    switched_on(&service.db).await;
    service
}

pub fn options(mail: MailConfig) -> Options {
    Options {
        mail: Some(mail),
        ..Options::default()
    }
}

pub async fn switched_on(db: &TestDatabase) {
    until(db, "mail_switch", 1).await;
}

/// Waits until a count of rows is `count`.
pub async fn until(db: &TestDatabase, table_and_condition: &str, count: i64) {
    for _ in 0..3_000 {
        if db.count(table_and_condition).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mails = "SELECT json_agg(m) FROM mails m";
    let (found, mails) = (db.count(table_and_condition).await, db.value(mails).await);
    panic!("{table_and_condition}: {found}, not {count}\n{mails}");
}

/// Waits until a series is `value`: what was committed is counted a moment later.
pub async fn until_metric(service: &TestService, series: &str, value: i64) {
    for _ in 0..3_000 {
        if service.metric(series).await == Some(value) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{series}: {:?}, not {value}", service.metric(series).await);
}

/// Waits for two whole searches, which find what there is to find.
pub async fn searched(db: &TestDatabase) {
    for _ in 0..2 {
        let last = db.value("SELECT searched_at FROM mail_switch").await;
        until(db, &format!("mail_switch WHERE searched_at > '{last}'"), 1).await;
    }
}

/// What waits for its turn has it now.
pub async fn hurry(db: &TestDatabase) {
    db.execute(
        "UPDATE mails SET next_attempt_at = now()
          WHERE status = 'pending' AND lease_id IS NULL AND next_attempt_at > now()",
    )
    .await;
}

/// Waits until a count of mails is `count`, without their pauses.
pub async fn hurried(db: &TestDatabase, condition: &str, count: i64) {
    let mails = format!("mails WHERE {condition}");
    for _ in 0..3_000 {
        hurry(db).await;
        if db.count(&mails).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(db, &mails, count).await;
}

/// An organization of a Stripe customer, with an address.
pub async fn organization(db: &TestDatabase, customer: &str, email: &str) -> Uuid {
    let id = db.organization(customer).await;
    address(db, id, email).await;
    id
}

pub async fn address(db: &TestDatabase, organization: Uuid, email: &str) {
    let set = format!("UPDATE organizations SET email = '{email}' WHERE id = '{organization}'");
    db.execute(&set).await;
}

/// An event of an open invoice, now.
pub fn of_invoice(event_type: &str, invoice_id: &str, customer: &str) -> Value {
    let now = Timestamp::now().as_second();
    let mut object = invoice(invoice_id, customer, "sub_billed", "open");
    object["hosted_invoice_url"] = json!(format!("https://invoice.stripe.com/i/{invoice_id}"));
    let kind = event_type.rsplit('.').next().unwrap();
    event(&format!("evt_{kind}_{invoice_id}"), event_type, now, object)
}

pub const FAILED: &str = "invoice.payment_failed";
pub const ACTION: &str = "invoice.payment_action_required";
