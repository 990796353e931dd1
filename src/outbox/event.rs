//! Events as they are sent: CloudEvents in structured mode.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The context in which events happen.
pub const SOURCE: &str = "/valuecanvas-billing";

/// The media type of an event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// A sequence number as CloudEvents' extension has it: text that sorts as the numbers do.
pub fn sequence_text(sequence: i64) -> String {
    format!("{sequence:016}")
}

/// An event before it has its number.
#[derive(Debug)]
pub struct NewEvent {
    pub id: Uuid,
    pub event_type: &'static str,
    pub time: Timestamp,
    /// JSON.
    pub data: Box<RawValue>,
}

impl NewEvent {
    pub fn new(
        id: Uuid,
        event_type: &'static str,
        time: Timestamp,
        data: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id,
            event_type,
            time,
            data: serde_json::value::to_raw_value(data)?,
        })
    }

    /// The body, which is identical on every attempt.
    pub fn body(&self, subject: &str, sequence: i64) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Envelope {
            specversion: "1.0",
            id: self.id,
            source: SOURCE,
            r#type: self.event_type,
            subject,
            time: self.time,
            datacontenttype: "application/json",
            sequence: sequence_text(sequence),
            data: &self.data,
        })
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: Uuid,
    source: &'static str,
    r#type: &'static str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    sequence: String,
    data: &'a RawValue,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn sequences_sort_as_text_as_they_do_as_numbers() {
        let mut texts: Vec<String> = [9, 10, 1, 1_000_000, 99].map(sequence_text).to_vec();
        texts.sort();
        let numbers: Vec<i64> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(numbers, [1, 9, 10, 99, 1_000_000]);
    }

    #[test]
    fn data_keeps_all_of_its_digits() {
        let raw = RawValue::from_string(r#"{"usage":9007199254740991.0001}"#.to_owned()).unwrap();
        let event = NewEvent {
            id: Uuid::nil(),
            event_type: "quota.exceeded",
            time: Timestamp::UNIX_EPOCH,
            data: raw,
        };
        let body = event.body("acme", 7).unwrap();
        assert!(body.contains("9007199254740991.0001"), "{body}");
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(read["sequence"], json!("0000000000000007"));
        assert_eq!(read["subject"], "acme");
    }
}
