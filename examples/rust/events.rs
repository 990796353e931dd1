//! Events from valuecanvas-billing: verified, taken once, and of states the newest.

use std::collections::HashMap;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::Value;
use sha2::Sha256;

/// The event, if it was signed with `secret` within the last five minutes.
pub fn verified(secret: &str, headers: &HeaderMap, body: &str) -> Option<Value> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let (id, sent) = (header("webhook-id")?, header("webhook-timestamp")?);
    let age = Timestamp::now().as_second() - sent.parse::<i64>().ok()?;
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{sent}.{body}").as_bytes());
    let is_right = header("webhook-signature")?.split(' ').any(|one| {
        let given = STANDARD.decode(one.trim_start_matches("v1,"));
        given.is_ok_and(|given| mac.clone().verify_slice(&given).is_ok())
    });
    let event = (is_right && age.abs() < 300).then(|| serde_json::from_str(body));
    event?.ok()
}

/// The newest state of each customer. A map stands for the product's database.
#[derive(Default)]
pub struct States(HashMap<String, (String, Value)>);

impl States {
    /// Keeps a state if it is newer than the one that is there.
    pub fn take(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (customer, sequence) = (text("subject"), text("sequence"));
        let known = self.0.get(&customer);
        let is_newer = known.is_none_or(|(newest, _)| *newest < sequence);
        if event["type"] == "organization.state_changed" && is_newer {
            self.0.insert(customer, (sequence, event["data"].clone()));
        }
    }

    pub fn of(&self, customer: &str) -> Option<Value> {
        self.0.get(customer).map(|(_, state)| state.clone())
    }
}
