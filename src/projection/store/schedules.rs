//! SQL of subscription schedules.

use super::mirrored::mirrored;
use crate::projection::schedule::{Shown, summary_of};
use crate::stripe::objects::SubscriptionSchedule;

mirrored! {
    SubscriptionSchedule, in "billing_subscription_schedules" by stripe_schedule_id, "stripe_schedule_id";
    columns: [
        "stripe_customer_id", "stripe_subscription_id", "status", "end_behavior",
        "current_phase_start", "current_phase_end", "phases", "released_at", "canceled_at",
        "completed_at", "metadata", "livemode", "stripe_created_at",
    ];
    shown: "stripe_subscription_id, status, end_behavior, current_phase_start, current_phase_end,
            phases, released_at, canceled_at, completed_at",
    |row| summary_of(&Shown {
            subscription_id: row.stripe_subscription_id,
            status: row.status,
            end_behavior: row.end_behavior,
            current_phase_start: row.current_phase_start.map(|at| at.to_jiff()),
            current_phase_end: row.current_phase_end.map(|at| at.to_jiff()),
            // What cannot be read differs from whatever comes next.
            phases: serde_json::from_value(row.phases).unwrap_or_default(),
            released_at: row.released_at.map(|at| at.to_jiff()),
            canceled_at: row.canceled_at.map(|at| at.to_jiff()),
            completed_at: row.completed_at.map(|at| at.to_jiff()),
        })
}
