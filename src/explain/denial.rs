//! Why a use was refused, by the id of its request: what the decision rested on then, and the
//! causes of that.

use serde_json::json;
use sqlx::PgConnection;

use super::{Cause, CauseKind, ExplainError, Explanation, at, feature, metric};
use crate::metering::denials::{self, Denial};
use crate::metering::ledger::Rules;

/// Refusals of requests with one id that are shown.
const SHOWN: i64 = 6;

pub async fn explain(
    conn: &mut PgConnection,
    rules: &Rules,
    request_id: &str,
) -> Result<Explanation, ExplainError> {
    let mut found = denials::of_request(conn, request_id, SHOWN)
        .await?
        .into_iter();
    let Some(newest) = found.next() else {
        return Err(ExplainError::NoDenial(request_id.to_owned()));
    };
    let organization_id = newest.organization_id;
    let mut causes = vec![cause(&newest)];
    // Callers choose ids, and may use one twice.
    causes.extend(found.map(|other| cause(&other)));
    let behind = match (&newest.metric, &newest.feature) {
        (Some(name), _) => {
            metric::explain(conn, rules, organization_id, name, newest.denied_at).await
        }
        (None, Some(name)) => feature::explain(conn, &rules.catalogue, organization_id, name).await,
        (None, None) => return Err(ExplainError::NoDenial(request_id.to_owned())),
    };
    match behind {
        Ok(behind) => {
            let known = behind.causes.into_iter();
            causes.extend(known.filter(|cause| cause.kind != CauseKind::Denial));
        }
        // The catalogue may have left it out since.
        Err(ExplainError::NoMetric { .. } | ExplainError::NoFeature { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(Explanation {
        subject: request_id.to_owned(),
        organization_id: Some(organization_id),
        answer: sentence(&newest),
        causes,
    })
}

/// A refusal as a cause.
pub fn cause(denial: &Denial) -> Cause {
    let facts = json!({
        "requestId": denial.request_id,
        "organizationId": denial.organization_id,
        "deniedAt": denial.denied_at,
        "code": denial.reason,
        "metric": denial.metric,
        "feature": denial.feature,
        "usage": denial.usage.map(|usage| usage.normalize().to_string()),
        "quota": denial.quota.map(|quota| quota.normalize().to_string()),
        "gracePeriodExpiresAt": denial.grace_expires_at,
    });
    Cause::new(CauseKind::Denial, sentence(denial), facts)
}

fn sentence(denial: &Denial) -> String {
    let Denial {
        organization_id,
        reason,
        ..
    } = denial;
    let when = at(denial.denied_at);
    let Some(metric) = &denial.metric else {
        let feature = denial.feature.as_deref().unwrap_or_default();
        return format!(
            "At {when} organization {organization_id} was refused with {reason}: it did not have \
             the feature {feature}."
        );
    };
    let used = denial.usage.unwrap_or_default().normalize();
    let of = match denial.quota {
        Some(quota) => format!("{used} of {} {metric} were used", quota.normalize()),
        None => format!("{used} {metric} were used"),
    };
    let grace = match denial.grace_expires_at {
        Some(expires) if expires <= denial.denied_at => {
            format!(", and its grace period had ended at {}", at(expires))
        }
        Some(expires) => format!(
            ", and no more is allowed during its grace period, which ends at {}",
            at(expires)
        ),
        None => String::new(),
    };
    format!(
        "At {when} a use of {metric} by organization {organization_id} was refused with {reason}: \
         {of}{grace}."
    )
}
