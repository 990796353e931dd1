//! `DELETE /api/billing/subscription/pending-change`.

use axum::extract::State;

use super::routes::change_and_show;
use super::view::SubscriptionView;
use super::{Command, Subscriptions};
use crate::server::layers::idempotency::Key;
use crate::server::problem::Problem;
use crate::tenancy::auth::Principal;

/// Call a pending change off
#[utoipa::path(
    delete,
    path = "/api/billing/subscription/pending-change",
    operation_id = "callOffPendingChange",
    tag = "Subscriptions",
    responses((status = 200, description = "The subscription, which stays as it is.", body = SubscriptionView),
              (status = 404, description = "No change is pending.")),
)]
pub(super) async fn call_off(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    change_and_show(
        subscriptions,
        caller,
        key,
        |subscriptions, caller| async move {
            subscriptions.change(&caller, Command::CallOff, None).await
        },
    )
    .await
}
