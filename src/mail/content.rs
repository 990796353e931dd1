//! What a mail says: read when it is sent, so that it says what holds then, or nothing.

use billing_domain::money;
use jiff::Timestamp;
use serde::Serialize;
use sqlx::PgConnection;

use super::kind::Kind;
use super::store::content as store;
use super::store::sending::Due;
use crate::catalogue::Catalogue;
use crate::pages::number::grouped;

/// Why a mail was withdrawn that has nobody to go to.
pub const NO_ADDRESS: &str = "the organization has no e-mail address";

/// What templates see beside the fact.
#[derive(Debug, Clone, Serialize)]
pub struct Site {
    /// What customers know the product by.
    pub product: String,
    /// The customer pages, where PUBLIC_URL says how they are reached.
    pub portal_url: Option<String>,
    pub application_url: Option<String>,
    /// The first of both that there is.
    pub manage_url: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Organization {
    pub name: String,
    pub external_id: Option<String>,
}

/// All that templates see: every name is there, whether or not it has a value.
#[derive(Debug, Clone, Serialize)]
pub struct Content {
    #[serde(flatten)]
    pub site: Site,
    pub organization: Organization,
    #[serde(flatten)]
    pub about: About,
}

/// The fact, under its own name.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    Invoice(Invoice),
    Trial(Trial),
    Card(Card),
    Quota(Quota),
}

#[derive(Debug, Clone, Serialize)]
pub struct Invoice {
    /// Its number, or id.
    pub number: String,
    /// What is still to be paid, such as `99.00 USD`.
    pub amount: String,
    /// Stripe's page on which it is paid and confirmed.
    pub url: Option<String>,
    /// When Stripe tries again by itself.
    pub next_attempt_on: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    pub plan: Option<String>,
    pub ends_on: String,
    /// Whether the subscription ends with the trial.
    pub ends: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Card {
    pub brand: Option<String>,
    pub last4: Option<String>,
    /// `12/2026`.
    pub expires: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Quota {
    pub metric: String,
    pub unit: Option<String>,
    pub used: String,
    pub limit: String,
    pub ends_on: String,
    /// What happens to further use: `hard`, `grace` or `overage`.
    pub over_limit: Option<String>,
}

/// What is to be said, and to whom.
pub struct Letter {
    pub recipient: String,
    pub content: Content,
}

/// What becomes of a mail that is due.
pub enum Finding {
    Say(Box<Letter>),
    /// Why there is nothing to say any more.
    Withdraw(String),
}

fn withdraw(reason: impl Into<String>) -> Finding {
    Finding::Withdraw(reason.into())
}

/// A day as people write it, in UTC.
fn day(at: Timestamp) -> String {
    at.strftime("%-d %B %Y").to_string()
}

/// Reads what `due` tells of.
pub async fn read(
    conn: &mut PgConnection,
    due: &Due,
    kind: Kind,
    site: &Site,
    catalogue: &Catalogue,
) -> Result<Finding, sqlx::Error> {
    let Some(addressee) = store::addressee(conn, due.organization_id).await? else {
        return Ok(withdraw("there is no such organization any more"));
    };
    if addressee.closed {
        return Ok(withdraw("the organization was archived or erased"));
    }
    let Some(recipient) = addressee.email else {
        return Ok(withdraw(NO_ADDRESS));
    };
    let about = match kind {
        Kind::PaymentFailed | Kind::ActionRequired => invoice(conn, due, kind).await?,
        Kind::TrialEnding => trial(conn, due, catalogue).await?,
        Kind::CardExpiring => card(conn, due).await?,
        Kind::QuotaWarning => quota(conn, due, 80, catalogue).await?,
        Kind::QuotaReached => quota(conn, due, 100, catalogue).await?,
    };
    Ok(match about {
        Ok(about) => Finding::Say(Box::new(Letter {
            recipient,
            content: Content {
                site: site.clone(),
                organization: Organization {
                    name: addressee.name,
                    external_id: addressee.external_id,
                },
                about,
            },
        })),
        Err(reason) => Finding::Withdraw(reason),
    })
}

/// What there is to say, or why there is nothing.
type Said = Result<About, String>;

async fn invoice(conn: &mut PgConnection, due: &Due, kind: Kind) -> Result<Said, sqlx::Error> {
    let id = &due.resource_id;
    let found = store::invoice(conn, due.organization_id, id, &due.fact).await?;
    let Some(found) = found else {
        return Ok(Err("the invoice is not mirrored".to_owned()));
    };
    match found.status.as_deref() {
        Some("open") => {}
        status => {
            let status = status.unwrap_or("without a status");
            return Ok(Err(format!("the invoice is {status} by now")));
        }
    }
    let attempt = due.fact.rsplit('/').next().unwrap_or_default();
    if attempt
        .parse()
        .is_ok_and(|attempt: i32| attempt < found.attempt_count)
    {
        return Ok(Err("a later attempt was made, and is told of".to_owned()));
    }
    if kind == Kind::PaymentFailed && found.acts {
        return Ok(Err("the payer has to act, and is told so".to_owned()));
    }
    Ok(Ok(About::Invoice(Invoice {
        number: found.number.unwrap_or_else(|| id.clone()),
        amount: money::display(found.amount_remaining, &found.currency),
        url: found.hosted_invoice_url,
        next_attempt_on: found.next_payment_attempt.map(day),
    })))
}

async fn trial(
    conn: &mut PgConnection,
    due: &Due,
    catalogue: &Catalogue,
) -> Result<Said, sqlx::Error> {
    let gone = || Ok(Err("the trial is over, or ends at another time".to_owned()));
    let Some(ends_at) = due.about_at else {
        return gone();
    };
    let found = store::trial(conn, due.organization_id, &due.resource_id, ends_at).await?;
    let Some(found) = found else { return gone() };
    let named = |tier: String| match catalogue.plan(&tier) {
        Some(plan) => plan.name.clone(),
        None => tier,
    };
    Ok(Ok(About::Trial(Trial {
        plan: found.plan_tier.map(named),
        ends_on: day(ends_at),
        ends: found.ends,
    })))
}

async fn card(conn: &mut PgConnection, due: &Due) -> Result<Said, sqlx::Error> {
    let found = store::card(conn, due.organization_id, &due.resource_id).await?;
    Ok(match found {
        Some(found) => Ok(About::Card(Card {
            brand: found.brand,
            last4: found.last4,
            expires: format!("{:02}/{}", found.exp_month, found.exp_year),
        })),
        None => Err("the card was removed or renewed, or its month is over".to_owned()),
    })
}

async fn quota(
    conn: &mut PgConnection,
    due: &Due,
    threshold: i16,
    catalogue: &Catalogue,
) -> Result<Said, sqlx::Error> {
    let gone = || Ok(Err("the quota's period is over".to_owned()));
    let (metric, Some(start)) = (&due.resource_id, due.about_at) else {
        return gone();
    };
    let found = store::quota(conn, due.organization_id, metric, start, threshold).await?;
    let Some(found) = found else { return gone() };
    if threshold < 100 && found.reached {
        return Ok(Err("all of the quota is used, which is told of".to_owned()));
    }
    let named = catalogue.metric_name(metric);
    Ok(Ok(About::Quota(Quota {
        metric: named.map_or_else(|| metric.clone(), |named| named.name.clone()),
        unit: named.and_then(|named| named.unit.clone()),
        used: grouped(found.usage.normalize()),
        limit: grouped(found.quota.normalize()),
        ends_on: day(found.period_end),
        over_limit: found.over_limit,
    })))
}

/// Contents that a template is tried with: with all there is, with as little as there may be,
/// and with each thing that may happen to further use.
pub fn samples(kind: Kind) -> Vec<Content> {
    let over_limits = [Some("hard"), Some("grace"), Some("overage"), None];
    let of = |full: bool, over_limit: Option<&str>| Content {
        site: sample_site(full),
        organization: Organization {
            name: "Example & Sons".to_owned(),
            external_id: full.then(|| "example".to_owned()),
        },
        about: sample(kind, full, over_limit),
    };
    match kind {
        Kind::QuotaWarning | Kind::QuotaReached => {
            let samples = over_limits.map(|over_limit| of(over_limit.is_some(), over_limit));
            samples.into_iter().collect()
        }
        _ => vec![of(true, None), of(false, None)],
    }
}

fn sample_site(full: bool) -> Site {
    let maybe = |text: &str| full.then(|| text.to_owned());
    Site {
        product: "Acme".to_owned(),
        portal_url: maybe("https://billing.example.com/portal"),
        application_url: maybe("https://app.example.com/"),
        manage_url: maybe("https://billing.example.com/portal"),
    }
}

fn sample(kind: Kind, full: bool, over_limit: Option<&str>) -> About {
    let maybe = |text: &str| full.then(|| text.to_owned());
    match kind {
        Kind::PaymentFailed | Kind::ActionRequired => About::Invoice(Invoice {
            number: "ACME-0042".to_owned(),
            amount: "99.00 USD".to_owned(),
            url: maybe("https://invoice.stripe.com/i/acct_1/test_1"),
            next_attempt_on: maybe("4 December 2026"),
        }),
        Kind::TrialEnding => About::Trial(Trial {
            plan: maybe("Standard"),
            ends_on: "4 December 2026".to_owned(),
            ends: !full,
        }),
        Kind::CardExpiring => About::Card(Card {
            brand: maybe("visa"),
            last4: maybe("4242"),
            expires: "12/2026".to_owned(),
        }),
        Kind::QuotaWarning | Kind::QuotaReached => About::Quota(Quota {
            metric: "API calls".to_owned(),
            unit: maybe("calls"),
            used: "1,000".to_owned(),
            limit: "1,000".to_owned(),
            ends_on: "1 January 2027".to_owned(),
            over_limit: over_limit.map(str::to_owned),
        }),
    }
}
