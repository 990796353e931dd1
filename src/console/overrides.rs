//! Overrides of one organization: a quota or a feature that replaces the plan's, with a reason
//! and perhaps an end. They are set by the functions that routes and commands call.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use uuid::Uuid;

use super::organizations::{PATH, page_of};
use super::query::part;
use super::screen::{Block, Cell, Field, Form, Refusal, Screen, Tone};
use super::session::{Acting, Fields, Posted, Signed, led_to};
use super::webhooks::{button, notice, unknown_act};
use super::{Console, explained};
use crate::audit;
use crate::catalogue::OverLimit;
use crate::db::TenantTx;
use crate::features::{self, Given, SetFeature, UnsetFeature};
use crate::metering::quotas::{self, QuotaLimit, SetQuota};
use crate::server::extract::Path;
use crate::server::problem::Problem;

/// What is overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quota,
    Feature,
}

/// One quota or feature of one organization.
struct Of {
    organization: Uuid,
    kind: Kind,
    name: String,
}

pub fn of_quota(organization: Uuid, metric: &str) -> String {
    format!("{}/quotas/{}", page_of(organization), part(metric))
}

pub fn of_feature(organization: Uuid, feature: &str) -> String {
    format!("{}/features/{}", page_of(organization), part(feature))
}

type Named = Result<Path<(Uuid, String)>, Problem>;

impl Of {
    fn new(path: Named, kind: Kind) -> Result<Self, Problem> {
        let missing = |_| Problem::not_found("There is no such organization.");
        let Path((organization, name)) = path.map_err(missing)?;
        Ok(Self {
            organization,
            kind,
            name,
        })
    }

    fn address(&self) -> String {
        match self.kind {
            Kind::Quota => of_quota(self.organization, &self.name),
            Kind::Feature => of_feature(self.organization, &self.name),
        }
    }

    fn explained(&self) -> String {
        match self.kind {
            Kind::Quota => explained::of_metric(self.organization, &self.name),
            Kind::Feature => explained::of_feature(self.organization, &self.name),
        }
    }
}

/// What is in force, and the override as a form has it.
struct Now {
    in_force: String,
    is_overridden: bool,
    /// When the override was set.
    set_at: Option<Timestamp>,
    typed: Typed,
    set_by: Option<String>,
}

/// What a form says. Each field is as it was typed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Typed {
    value: String,
    over_limit: String,
    reason: String,
    expires_at: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let own = |name| fields.get(name).unwrap_or_default().trim().to_owned();
        Self {
            value: own("value"),
            over_limit: own("overLimit"),
            reason: own("reason"),
            expires_at: own("expiresAt"),
        }
    }

    fn expires_at(&self) -> Result<Option<Timestamp>, Problem> {
        let at = (!self.expires_at.is_empty()).then(|| self.expires_at.parse());
        at.transpose().map_err(|_| {
            let why = "until: expected a time such as 2026-12-31T00:00:00Z, or nothing";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_time", why)
        })
    }
}

/// The override that a page showed, as its form says it.
const NO_OVERRIDE: &str = "none";

impl Now {
    fn seen(&self) -> String {
        self.set_at
            .map_or_else(|| NO_OVERRIDE.to_owned(), |at| at.to_string())
    }
}

/// When the override was set that the form's page showed; a form that does not say it saw none
/// that there is.
fn seen(fields: &Fields) -> Option<Option<Timestamp>> {
    match fields.get("seen")? {
        NO_OVERRIDE => Some(None),
        at => at.parse().ok().map(Some),
    }
}

fn changed() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "override_changed",
        "Somebody else changed it since this page was made. What is in force now is below; \
         what you typed is kept. Send it again if it still holds.",
    )
}

async fn now(console: &Console, of: &Of) -> Result<Now, Problem> {
    let missing = || Problem::not_found("There is no such organization, or it has none such.");
    let mut tx = TenantTx::begin(&console.shared.pool, of.organization).await?;
    let now = match of.kind {
        Kind::Quota => {
            let all = quotas::list(tx.conn(), of.organization).await?;
            let overrides = quotas::overrides(tx.conn(), of.organization).await?;
            let quota = all.into_iter().find(|one| one.metric == of.name);
            let quota = quota.ok_or_else(missing)?;
            let set = overrides.into_iter().find(|one| one.metric == of.name);
            let limit = quota.quota.as_ref();
            let limit = limit.map_or("unlimited".to_owned(), |n| n.0.normalize().to_string());
            let over = &quota.over_limit;
            Now {
                in_force: match limit.as_str() {
                    "unlimited" => limit.clone(),
                    limit => format!("{limit}, and over it {over}"),
                },
                is_overridden: set.is_some(),
                set_at: set.as_ref().map(|set| set.updated_at),
                typed: match &set {
                    Some(set) => Typed {
                        value: limit,
                        over_limit: set.over_limit.clone().unwrap_or_default(),
                        reason: set.reason.clone().unwrap_or_default(),
                        expires_at: set.expires_at.map_or(String::new(), |at| at.to_string()),
                    },
                    None => Typed::default(),
                },
                set_by: set.and_then(|set| set.set_by),
            }
        }
        Kind::Feature => {
            if quotas::list(tx.conn(), of.organization).await?.is_empty() {
                return Err(missing());
            }
            let all = features::list(tx.conn(), &console.catalogue, of.organization).await?;
            let row = all.into_iter().find(|one| one.feature == of.name);
            let row = row.ok_or_else(missing)?;
            let text = |value: Option<String>| value.unwrap_or_else(|| "off".to_owned());
            let shown = |value: &Option<_>| {
                let value = serde_json::to_value(value).unwrap_or_default();
                match value {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text),
                    other => Some(other.to_string()),
                }
            };
            let set = row.r#override.as_ref();
            Now {
                in_force: text(shown(&row.value)),
                is_overridden: set.is_some(),
                set_at: set.map(|set| set.created_at),
                typed: set.map_or_else(Typed::default, |set| Typed {
                    value: text(shown(&set.value)),
                    over_limit: String::new(),
                    reason: set.reason.clone(),
                    expires_at: set.expires_at.map_or(String::new(), |at| at.to_string()),
                }),
                set_by: set.map(|set| set.set_by.clone()),
            }
        }
    };
    tx.commit().await?;
    Ok(now)
}

pub async fn quota(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Named,
) -> Result<Response, Refusal> {
    page(&console, &signed, &Of::new(path, Kind::Quota)?).await
}

pub async fn feature(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Named,
) -> Result<Response, Refusal> {
    page(&console, &signed, &Of::new(path, Kind::Feature)?).await
}

async fn page(console: &Console, signed: &Signed, of: &Of) -> Result<Response, Refusal> {
    let now = now(console, of).await?;
    let (action, resource) = match of.kind {
        Kind::Quota => (quotas::QUOTAS_LISTED, "quota"),
        Kind::Feature => (features::FEATURES_LISTED, "feature"),
    };
    let organization = Some(of.organization);
    let entry = signed
        .operator
        .did(action, organization, resource, of.name.clone());
    let mut tx = TenantTx::begin(&console.shared.pool, of.organization).await?;
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(screen(signed, of, &now, &now.typed, None).answer())
}

fn screen(signed: &Signed, of: &Of, now: &Now, typed: &Typed, first: Option<Block>) -> Screen {
    let what = match of.kind {
        Kind::Quota => "Quota",
        Kind::Feature => "Feature",
    };
    let text = |text: &str| match text.is_empty() {
        true => Cell::None,
        false => Cell::text(text),
    };
    let mut rows = vec![(
        "In force",
        Cell::Many(vec![
            Cell::text(&now.in_force),
            Cell::link(of.explained(), "why"),
        ]),
    )];
    match now.is_overridden {
        true => rows.extend([
            ("Reason", text(&now.typed.reason)),
            ("Until", text(&now.typed.expires_at)),
            ("Set by", Cell::maybe(now.set_by.as_deref(), Cell::text)),
        ]),
        false => rows.push(("Override", Cell::None)),
    }
    Screen::new(signed, PATH, &format!("{what} {}", of.name))
        .above(&page_of(of.organization), "The organization")
        .with_all(first)
        .with(Block::Facts {
            title: "Now".to_owned(),
            rows,
        })
        .with_all(signed.may_act().then(|| form(of, now, typed)))
}

fn form(of: &Of, now: &Now, typed: &Typed) -> Block {
    let (label, example) = match of.kind {
        Kind::Quota => ("Quota: a number, or unlimited", "5000"),
        Kind::Feature => ("Value: on or off, a number, or a word", "on"),
    };
    let mut fields = vec![Field::text("value", label, Some(&typed.value), example)];
    if of.kind == Kind::Quota {
        fields.push(Field {
            choices: vec![
                ("", "as the plan says"),
                ("hard", "hard: refused"),
                ("grace", "grace: let in for a while"),
                ("overage", "overage: let in, and billed"),
            ],
            ..Field::text("overLimit", "Over the quota", Some(&typed.over_limit), "")
        });
    }
    let reason = Some(typed.reason.as_str());
    let until = Some(typed.expires_at.as_str());
    fields.extend([
        Field::text("reason", "Reason", reason, "promised in the contract"),
        Field::text(
            "expiresAt",
            "Until, in UTC; or nothing",
            until,
            "2026-12-31T00:00:00Z",
        ),
    ]);
    let mut buttons = vec![button("set", "Set it", Tone::Main)];
    if now.is_overridden {
        buttons.push(button("unset", "Return to the plan's", Tone::Bad));
    }
    Block::Form(Form {
        title: "Override".to_owned(),
        text: "It holds from the next request on, whatever the plan says. The reason is for \
                   the audit log, and for the next operator; so is one for returning to the plan's."
            .to_owned(),
        action: of.address(),
        hidden: vec![("seen", now.seen())],
        buttons,
        back: Some(page_of(of.organization)),
        fields,
        ..Form::default()
    })
}

pub async fn set_quota(
    State(console): State<Arc<Console>>,
    path: Named,
    Acting(posted): Acting,
) -> Result<Response, Refusal> {
    act(&console, &posted, &Of::new(path, Kind::Quota)?).await
}

pub async fn set_feature(
    State(console): State<Arc<Console>>,
    path: Named,
    Acting(posted): Acting,
) -> Result<Response, Refusal> {
    act(&console, &posted, &Of::new(path, Kind::Feature)?).await
}

async fn act(console: &Console, posted: &Posted, of: &Of) -> Result<Response, Refusal> {
    let sets = match posted.fields.get("do") {
        Some("set") => true,
        Some("unset") => false,
        _ => return Err(unknown_act().into()),
    };
    let typed = Typed::of(&posted.fields);
    // Asked first, so that nobody corrects what is late; and again under the lock.
    let is_late = posted.fields.get("seen") != Some(&now(console, of).await?.seen());
    let done = match seen(&posted.fields) {
        Some(seen) if !is_late => change(console, &posted.signed, of, (sets, &typed), seen).await,
        _ => Err(changed()),
    };
    let Err(problem) = done else {
        return Ok(led_to(&page_of(of.organization)));
    };
    let problem = match problem.code() == "override_changed" {
        true => changed(),
        false => problem,
    };
    if problem.status().is_server_error() || problem.status() == StatusCode::NOT_FOUND {
        return Err(problem.into());
    }
    let before = now(console, of).await?;
    let why = notice(Tone::Bad, "Nothing was changed", problem.detail());
    let screen = screen(&posted.signed, of, &before, &typed, Some(why));
    Ok(screen.answer_as(problem.status()))
}

/// Sets what was typed, or returns to the plan's, if the override is the one that was seen.
async fn change(
    console: &Console,
    signed: &Signed,
    of: &Of,
    (sets, said): (bool, &Typed),
    seen: Option<Timestamp>,
) -> Result<(), Problem> {
    let typed = sets.then_some(said);
    let (pool, catalogue) = (&console.shared.pool, &console.catalogue);
    let (actor, client) = (
        signed.operator.actor(),
        Some(signed.operator.client.clone()),
    );
    let organization_id = of.organization;
    match (of.kind, typed) {
        (Kind::Quota, typed) => {
            let command = SetQuota {
                organization_id,
                metric: of.name.clone(),
                limit: match typed {
                    Some(typed) => limit(&typed.value)?,
                    None => QuotaLimit::Plan,
                },
                over_limit: typed.map(over_limit).transpose()?.flatten(),
                reason: match sets {
                    true => Some(said.reason.clone()),
                    false => parting(console, of, said).await?,
                },
                expires_at: typed.map(Typed::expires_at).transpose()?.flatten(),
                actor,
                client,
            };
            quotas::set_as_seen(pool, catalogue, &command, seen).await?;
        }
        (Kind::Feature, Some(typed)) => {
            let command = SetFeature {
                organization_id,
                feature: of.name.clone(),
                value: Given::Text(typed.value.clone()),
                reason: typed.reason.clone(),
                expires_at: typed.expires_at()?,
                actor,
                client,
            };
            features::set_as_seen(pool, catalogue, &command, Some(seen)).await?;
        }
        (Kind::Feature, None) => {
            let command = UnsetFeature {
                organization_id,
                feature: of.name.clone(),
                reason: parting(console, of, said).await?,
                actor,
                client,
            };
            features::unset_as_seen(pool, catalogue, &command, Some(seen)).await?;
        }
    }
    Ok(())
}

/// Why it is returned to the plan's, if that was said: the form shows the reason of the override
/// itself until somebody types another.
async fn parting(console: &Console, of: &Of, said: &Typed) -> Result<Option<String>, Problem> {
    let of_override = now(console, of).await?.typed.reason;
    let is_said = !said.reason.is_empty() && said.reason != of_override;
    Ok(is_said.then(|| said.reason.clone()))
}

fn limit(text: &str) -> Result<QuotaLimit, Problem> {
    let invalid =
        |why: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_limit", why);
    match QuotaLimit::parse(text) {
        Ok(QuotaLimit::Plan) => Err(invalid(
            "Quota: `Return to the plan's` is a button of its own".to_owned(),
        )),
        Ok(limit) => Ok(limit),
        Err(error) => Err(invalid(format!("Quota: {error}; or `unlimited`"))),
    }
}

fn over_limit(typed: &Typed) -> Result<Option<OverLimit>, Problem> {
    let text = typed.over_limit.as_str();
    if text.is_empty() {
        return Ok(None);
    }
    let known = OverLimit::named(text).ok_or_else(unknown_act)?;
    Ok(Some(known))
}
