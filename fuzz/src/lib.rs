//! The properties that hold for any input: no parser panics, and whatever a
//! parser accepts is valid.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rust_decimal::Decimal;
use uuid::Uuid;
use valuecanvas_billing::server::extract::parse_json;
use valuecanvas_billing::server::layers::idempotency::Key;
use valuecanvas_billing::server::layers::media;
use valuecanvas_billing::server::pagination::cursor::ListCursors;
use valuecanvas_billing::server::pagination::page::Limit;
use valuecanvas_billing::stripe::event::{Envelope, EventData};
use valuecanvas_billing::stripe::objects::{Charge, Invoice, PaymentMethod, Subscription};
use valuecanvas_billing::stripe::signature::{self, SigningSecret};
use valuecanvas_billing::tenancy::auth::parse_credential;

/// A check that must hold for any bytes.
pub type Check = fn(&[u8]);

pub const CHECKS: [(&str, Check); 6] = [
    ("signature", signature),
    ("event", event),
    ("money", money),
    ("cursor", cursor),
    ("credential", credential),
    ("headers", headers),
];

const NOW: i64 = 1_760_000_000;

/// A Stripe-Signature header, a newline and the body it signs. `{v1}` stands for
/// the correct signature.
pub fn signature(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (header, body) = data.split_at(end.unwrap_or(data.len()));
    let secret = SigningSecret::new("whsec_fuzz");
    let signed = signature::sign(&secret, body, NOW);
    let (_, right) = signed.split_once("v1=").expect("the header has a v1");
    let header = String::from_utf8_lossy(header).replace("{v1}", right);
    let secrets = [SigningSecret::new("whsec_other"), secret];
    let verified = signature::verify(Some(&header), body, &secrets, NOW, 300);
    if verified.is_ok() {
        // The signature of any second within the tolerance is valid.
        let times = NOW - 300..=NOW + 300;
        let mut right = times.map(|at| signature::sign(&secrets[1], body, at));
        let right = right.any(|signed| header.contains(&signed[signed.len() - 64..]));
        assert!(right, "{header} was accepted");
    }
    assert!(signature::verify(Some(&signed), body, &secrets, NOW, 300).is_ok());
}

/// The body of a delivery, through every parser of its object.
pub fn event(data: &[u8]) {
    let Ok(envelope) = Envelope::read(data, NOW) else {
        return;
    };
    assert!(!envelope.id.is_empty());
    let payload = std::str::from_utf8(data).expect("an event is UTF-8");
    let Ok(data) = EventData::read(payload) else {
        return;
    };
    let _ = Subscription::read(&data.object);
    let _ = Invoice::read(&data.object);
    let _ = Charge::read(&data.object);
    let _ = PaymentMethod::read(&data.object, data.previous_attributes.as_ref());
}

/// Eight bytes of an amount, followed by a currency.
pub fn money(data: &[u8]) {
    let (amount, currency) = data.split_at(data.len().min(8));
    let mut bytes = [0; 8];
    bytes[..amount.len()].copy_from_slice(amount);
    let minor = i64::from_le_bytes(bytes);
    let currency = String::from_utf8_lossy(currency);
    let major: Decimal = billing_domain::money::major(minor, &currency)
        .parse()
        .expect("it is a decimal");
    let decimals = billing_domain::money::decimals(&currency);
    assert_eq!(major, Decimal::from_i128_with_scale(minor.into(), decimals));
    let _ = billing_domain::money::display(minor, &currency);
    // A number in a body is either parsed exactly or refused.
    if let Ok(limit) = parse_json::<Limit>(data) {
        assert!((2..=101).contains(&limit.rows()));
    }
}

/// A pagination cursor.
pub fn cursor(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let cursors = ListCursors::new([7; 32], Uuid::from_u128(1), "invoices", &());
    // Only the holder of the key can create a cursor, such as this one.
    let made = cursors.write(&(1, "in_1"));
    if let Ok(Some(place)) = cursors.place::<(i64, String)>(Some(&text)) {
        assert_eq!(text, made, "{place:?}");
    }
    let written = cursors.write(&(0, &*text));
    let read = cursors.place::<(i64, String)>(Some(&written));
    match read {
        Ok(place) => assert_eq!(place, Some((0, text.into_owned()))),
        Err(_) => assert!(written.len() > 1_024, "{written} is ours"),
    }
}

/// A session token or an API key.
pub fn credential(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if parse_credential(&text).is_some() {
        let digits = text.strip_prefix("vcs_").or(text.strip_prefix("vck_"));
        let digits = digits.expect("it says what it is");
        assert_eq!(digits.len(), 64);
        assert_eq!(digits, digits.to_ascii_lowercase());
        assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

/// The other headers that are parsed; each line is a value.
pub fn headers(data: &[u8]) {
    for name in ["accept", "idempotency-key"] {
        let name = HeaderName::from_static(name);
        let mut headers = HeaderMap::new();
        for line in data.split(|byte| *byte == b'\n').take(16) {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(&name, value);
            }
        }
        let offers = ["application/json", "text/csv"];
        if let Some(chosen) = media::choose(&headers, offers.into_iter()) {
            assert!(offers.contains(&chosen));
        }
        if let Ok(key) = Key::of(&headers) {
            assert!((1..=255).contains(&key.as_str().len()));
        }
    }
}
