//! How long things are kept.

use clap::Args;

use super::text::number;
use super::{ConfigError, or};

/// A hundred years.
const MOST_DAYS: u32 = 36_500;

/// How long things are kept, in days; 0 keeps them for ever.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention, in days (0 keeps for ever)")]
pub struct RetentionArgs {
    /// Payloads of processed webhook events.
    #[arg(long, env = "RETENTION_WEBHOOK_PAYLOAD_DAYS", default_value = "90", value_parser = or("90"))]
    retention_webhook_payload_days: String,
    /// Processed webhook events: their ids, by which a second delivery is known.
    #[arg(long, env = "RETENTION_WEBHOOK_EVENT_DAYS", default_value = "400", value_parser = or("400"))]
    retention_webhook_event_days: String,
    /// Usage events of periods that are over; totals stay.
    #[arg(long, env = "RETENTION_USAGE_EVENT_DAYS", default_value = "400", value_parser = or("400"))]
    retention_usage_event_days: String,
    /// Answers that were kept for an Idempotency-Key.
    #[arg(long, env = "RETENTION_IDEMPOTENCY_DAYS", default_value = "1", value_parser = or("1"))]
    retention_idempotency_days: String,
    /// Ended sessions, login throttles, refused deliveries and job runs.
    #[arg(long, env = "RETENTION_SESSION_DAYS", default_value = "30", value_parser = or("30"))]
    retention_session_days: String,
    /// What the application was told of.
    #[arg(long, env = "RETENTION_OUTBOUND_DAYS", default_value = "90", value_parser = or("90"))]
    retention_outbound_days: String,
    /// Payloads and attempts of discarded dead letters.
    #[arg(long, env = "RETENTION_DISCARDED_DEAD_LETTER_DAYS", default_value = "90", value_parser = or("90"))]
    retention_discarded_dead_letter_days: String,
}

/// How long things are kept; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    pub webhook_payload_days: Option<u32>,
    pub webhook_event_days: Option<u32>,
    pub usage_event_days: Option<u32>,
    pub idempotency_days: Option<u32>,
    pub session_days: Option<u32>,
    pub outbound_days: Option<u32>,
    pub discarded_dead_letter_days: Option<u32>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            webhook_payload_days: Some(90),
            webhook_event_days: Some(400),
            usage_event_days: Some(400),
            idempotency_days: Some(1),
            session_days: Some(30),
            outbound_days: Some(90),
            discarded_dead_letter_days: Some(90),
        }
    }
}

impl RetentionArgs {
    pub fn check(&self) -> Result<RetentionConfig, ConfigError> {
        let days = |variable, text: &str| -> Result<Option<u32>, ConfigError> {
            let days = number(variable, text, 0, MOST_DAYS)?;
            Ok((days > 0).then_some(days))
        };
        Ok(RetentionConfig {
            webhook_payload_days: days(
                "RETENTION_WEBHOOK_PAYLOAD_DAYS",
                &self.retention_webhook_payload_days,
            )?,
            webhook_event_days: days(
                "RETENTION_WEBHOOK_EVENT_DAYS",
                &self.retention_webhook_event_days,
            )?,
            usage_event_days: days(
                "RETENTION_USAGE_EVENT_DAYS",
                &self.retention_usage_event_days,
            )?,
            idempotency_days: days(
                "RETENTION_IDEMPOTENCY_DAYS",
                &self.retention_idempotency_days,
            )?,
            session_days: days("RETENTION_SESSION_DAYS", &self.retention_session_days)?,
            outbound_days: days("RETENTION_OUTBOUND_DAYS", &self.retention_outbound_days)?,
            discarded_dead_letter_days: days(
                "RETENTION_DISCARDED_DEAD_LETTER_DAYS",
                &self.retention_discarded_dead_letter_days,
            )?,
        })
    }
}
