//! What went wrong, said to a customer: what it means, and what to do.

use axum::http::StatusCode;

use super::look::{Notice, Tone};
use super::text::capitalized;
use crate::server::problem::Problem;

/// The words for a problem of any room. Those of the API speak to programs.
pub fn said(problem: &Problem) -> Notice {
    let (title, text) = of_change(problem)
        .or_else(|| of_payment(problem))
        .or_else(|| of_page(problem))
        .unwrap_or_else(|| {
            let title = match problem.status().is_server_error() {
                true => "That did not work",
                false => "That is not possible",
            };
            (title, capitalized(problem.detail()))
        });
    let tone = match problem.status() {
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => Tone::Warn,
        _ => Tone::Bad,
    };
    Notice::new(tone, title, text)
}

fn of_change(problem: &Problem) -> Option<(&'static str, String)> {
    let (title, text) = match problem.code() {
        "preview_stale" => (
            "The price has changed",
            "Nothing was changed and nothing was charged. The new price is below.",
        ),
        "same_plan" => ("You have this plan already", "Choose another one."),
        "change_in_progress" => (
            "Another change is under way",
            "Wait a moment, and look at your plan before you try again.",
        ),
        "change_pending" => (
            "Another change is waiting",
            "Call it off on the overview first, or wait until it is done.",
        ),
        "payment_processing" => (
            "Your bank has the payment",
            "It can be called off no more. Look again once your bank has answered.",
        ),
        "already_canceling" => (
            "Your subscription is about to end",
            "Keep it on the overview first, and change it then.",
        ),
        "subscription_incomplete" => (
            "Your first payment is still due",
            "Pay its invoice, or cancel the subscription and choose a plan again.",
        ),
        "no_subscription" | "no_pending_change" | "not_canceling" => (
            "There is nothing left to do here",
            "It has changed meanwhile: look at the overview.",
        ),
        "migration_pending" | "change_scheduled" => (
            "A change of your plan is planned already",
            "Ask us, and we change it for you.",
        ),
        "preview_unavailable" => (
            "The price cannot be computed now",
            "Nothing was changed. Call off what is waiting, try again later, or ask us.",
        ),
        "not_at_once" => (
            "This plan begins when your period ends",
            "Choose it again: it is prepared for that day.",
        ),
        "plan_retired" | "unknown_plan" | "price_not_offered" | "currency_mismatch" => (
            "This plan cannot be bought like that",
            "Choose one of the plans below.",
        ),
        "quantity_out_of_range" | "seats_in_use" | "plan_without_seats" => {
            return Some((
                "This number of seats is not possible",
                capitalized(problem.detail()),
            ));
        }
        "promotion_code_invalid" => {
            return Some((
                "This promotion code does not work",
                capitalized(problem.detail()),
            ));
        }
        _ => return None,
    };
    Some((title, text.to_owned()))
}

fn of_payment(problem: &Problem) -> Option<(&'static str, String)> {
    let (title, text) = match problem.code() {
        "card_declined" => {
            let why = problem.detail().split_once("nothing was changed: ");
            let why = why.map(|(_, why)| capitalized(why)).unwrap_or_default();
            let advice = "Nothing was changed. Use another card, or ask your bank.";
            return Some(("Your card was declined", format!("{why} {advice}")));
        }
        "authentication_required" => (
            "Your bank wants to hear from you",
            "Nothing was changed. Use a card that needs no confirmation for this.",
        ),
        "payment_method_required" => (
            "There is no card to charge",
            "Nothing was changed. Add a card, and choose the plan again.",
        ),
        "last_payment_method" => (
            "This is the only card for your subscription",
            "Add another one first, or cancel the subscription.",
        ),
        "address_required" => (
            "Your address is missing",
            "Taxes depend on where you are, and we do not know it. Ask us to enter it.",
        ),
        "stripe_not_configured"
        | "stripe_key_refused"
        | "price_missing"
        | "customer_missing"
        | "stripe_refused" => (
            "Payments are not available now",
            "Nothing was changed. Ask us: it is for us to repair.",
        ),
        "stripe_unreachable" => (
            "The payment service did not answer",
            "Look at the overview in a few minutes before you try again: the change may have been \
             made.",
        ),
        "stripe_busy" | "stripe_failed" | "stripe_unreadable" | "usage_not_counted" => (
            "The payment service did not answer",
            "Nothing was changed. Try again in a moment.",
        ),
        _ => return None,
    };
    Some((title, text.to_owned()))
}

fn of_page(problem: &Problem) -> Option<(&'static str, String)> {
    let (title, text) = match problem.code() {
        "organization_archived" => (
            "This account is closed",
            "You can look at everything, and change nothing.",
        ),
        "form_expired" => (
            "Nothing was done",
            "This form is not of your present session. Open its page again, and send it from \
             there.",
        ),
        "forbidden" => (
            "You may look, and change nothing",
            "Ask an owner or a billing manager of your organization.",
        ),
        "idempotency_in_flight" => (
            "It is still under way",
            "Look at the overview in a moment, before you send anything again.",
        ),
        "idempotency_key_reused" | "idempotency_answer_not_kept" => (
            "This form was sent before",
            "Nothing was done again. Look at the overview for what came of it, and open the page \
             again to send another one.",
        ),
        "request_timeout" => (
            "This took too long",
            "It may have been done all the same: look at the overview before you send it again.",
        ),
        "body_too_large" | "unsupported_media_type" => (
            "Nothing was done",
            "This is no form of these pages. Open its page again, and send it from there.",
        ),
        "not_found" => (
            "There is no such page",
            "Go on with one of the pages above.",
        ),
        "invalid_cursor" | "cursor_invalid" => {
            ("This page of the list is gone", "Begin the list again.")
        }
        _ if problem.status() == StatusCode::TOO_MANY_REQUESTS => (
            "That was too often",
            "Nothing was done. Wait a moment, and try again.",
        ),
        _ if problem.status() == StatusCode::INTERNAL_SERVER_ERROR => (
            "Something went wrong",
            "It was noted, and nothing of it is your fault. Try again in a moment.",
        ),
        _ if problem.status() == StatusCode::SERVICE_UNAVAILABLE => {
            ("This is not available now", "Try again in a moment.")
        }
        _ => return None,
    };
    Some((title, text.to_owned()))
}
