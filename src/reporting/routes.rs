//! `/api/operator/figures` and below. Every look is in the audit log.

use std::future::Future;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::figures::{
    self, Customer, CustomerCount, Figures, MONTHS, MOST_MONTHS, Month, Movement, Place,
};
use super::{Filter, csv};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::layers::media::{self, Wanted};
use crate::server::number;
use crate::server::pagination::page::{Limit, ListQuery, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, Share, operator};
use crate::tenancy::auth::Operator;

pub const SHOWN: &str = "figures_shown";
pub const MOVEMENTS_LISTED: &str = "revenue_movements_listed";
pub const CUSTOMERS_LISTED: &str = "figures_customers_listed";

/// Rows of an export that are read at once.
const AT_ONCE: i64 = 1_000;

pub fn routes() -> Routes<Shared> {
    let listed = operator().share(Share::Exports);
    Routes::new()
        .route(routes!(shown), operator())
        .route(routes!(by_month), listed)
        .route(routes!(moved), listed)
        .route(routes!(standing), operator())
        .route(routes!(paying), listed)
}

/// Enters that an operator looked.
pub async fn looked(
    tx: &mut WorkerTx,
    operator: &Operator,
    action: &'static str,
    what: &str,
    filters: Value,
) -> Result<(), Problem> {
    let mut entry = operator.did(action, None, "figures", what.to_owned());
    entry.metadata = json!({"operator": true, "filters": filters});
    Ok(audit::record_one(tx, entry).await?)
}

fn wants_csv(wanted: Option<Extension<Wanted>>) -> bool {
    wanted.is_some_and(|Extension(wanted)| wanted.is(media::CSV))
}

/// The business figures as of now
///
/// docs/reporting.md defines each, and has the query behind it.
#[utoipa::path(
    get,
    path = "/api/operator/figures",
    operation_id = "getFigures",
    tag = "Operators",
    responses((status = 200, description = "The figures.", body = Figures)),
)]
async fn shown(State(shared): State<Shared>, operator: Operator) -> Result<Json<Figures>, Problem> {
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let figures = figures::read(tx.conn(), Timestamp::now()).await?;
    looked(&mut tx, &operator, SHOWN, "now", Value::Null).await?;
    tx.commit().await?;
    Ok(Json(figures))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MonthsQuery {
    /// How many months, this one included.
    #[serde(default = "year", deserialize_with = "number::whole")]
    #[param(minimum = 1, maximum = 120, default = 12)]
    count: u32,
}

fn year() -> u32 {
    MONTHS
}

/// Monthly recurring revenue by month and currency, newest first
///
/// With `Accept: text/csv` as CSV.
#[utoipa::path(
    get,
    path = "/api/operator/figures/months",
    operation_id = "listRevenueMonths",
    tag = "Operators",
    params(MonthsQuery),
    responses((status = 200, description = "The months.",
               content((Page<Month> = "application/json"), (String = "text/csv")))),
)]
async fn by_month(
    State(shared): State<Shared>,
    operator: Operator,
    Query(query): Query<MonthsQuery>,
    wanted: Option<Extension<Wanted>>,
) -> Result<Response, Problem> {
    if !(1..=MOST_MONTHS).contains(&query.count) {
        return Err(Problem::new(
            axum::http::StatusCode::BAD_REQUEST,
            "invalid_query",
            format!("count: a number from 1 to {MOST_MONTHS} is needed"),
        ));
    }
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let months = figures::months(tx.conn(), Timestamp::now(), query.count).await?;
    let filters = json!({"count": query.count});
    looked(&mut tx, &operator, SHOWN, "months", filters).await?;
    tx.commit().await?;
    Ok(match wants_csv(wanted) {
        true => csv_of("months", csv::MONTHS.to_owned() + &csv::months(&months)),
        false => Json(Page::only(months)).into_response(),
    })
}

/// What moves recurring revenue.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RevenueMovementKind)]
pub enum Kind {
    New,
    Reactivation,
    Expansion,
    Contraction,
    Churn,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reactivation => "reactivation",
            Self::Expansion => "expansion",
            Self::Contraction => "contraction",
            Self::Churn => "churn",
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MovementsQuery {
    /// The first time, inclusive.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// The last time, exclusive.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    #[param(inline)]
    kind: Option<Kind>,
    /// Such as `usd`.
    currency: Option<String>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

impl ListQuery for MovementsQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!({"from": self.from, "to": self.to, "kind": self.kind, "currency": self.currency})
    }
}

/// Movements of recurring revenue, newest first
///
/// With `Accept: text/csv`, the response has all matching ones, unpaged.
#[utoipa::path(
    get,
    path = "/api/operator/figures/movements",
    operation_id = "listRevenueMovements",
    tag = "Operators",
    params(MovementsQuery),
    responses((status = 200, description = "A page of movements, or all of them as CSV.",
               content((Page<Movement> = "application/json"), (String = "text/csv")))),
)]
async fn moved(
    State(shared): State<Shared>,
    operator: Operator,
    Query(query): Query<MovementsQuery>,
    wanted: Option<Extension<Wanted>>,
) -> Result<Response, Problem> {
    let page = shared
        .page::<Movement>(Uuid::nil(), "revenue-movements", &query)
        .await?;
    let filter = Filter {
        from: query.from,
        to: query.to,
        kind: query.kind.map(|kind| kind.name().to_owned()),
        currency: query.currency.clone(),
    };
    let whole = wants_csv(wanted);
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = match whole {
        true => Vec::new(),
        false => {
            let after = page.after.as_ref();
            figures::movements(tx.conn(), &filter, after, page.rows()).await?
        }
    };
    let filters = query.filters();
    looked(&mut tx, &operator, MOVEMENTS_LISTED, "movements", filters).await?;
    tx.commit().await?;
    if whole {
        return Ok(movements_csv(shared, filter));
    }
    Ok(Json(page.of(rows)).into_response())
}

/// All movements that match.
pub fn movements_csv(shared: Shared, filter: Filter) -> Response {
    export("movements", csv::MOVEMENTS, move |after: Option<Place>| {
        let (shared, filter) = (shared.clone(), filter.clone());
        async move {
            let mut tx = WorkerTx::begin(&shared.pool).await?;
            let after = after.as_ref();
            let rows = figures::movements(tx.conn(), &filter, after, AT_ONCE).await?;
            let next = rows
                .last()
                .map(crate::server::pagination::page::Listed::position);
            Ok((csv::movements(&rows), next))
        }
    })
}

/// How an organization stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CustomerStanding)]
pub enum Standing {
    Paying,
    PastDue,
    Trialing,
    Free,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Paying => "paying",
            Self::PastDue => "past_due",
            Self::Trialing => "trialing",
            Self::Free => "free",
        }
    }
}

/// How many organizations pay, are past due, try or are free, by plan
#[utoipa::path(
    get,
    path = "/api/operator/figures/standings",
    operation_id = "listFiguresStandings",
    tag = "Operators",
    responses((status = 200, description = "All of them.", body = Page<CustomerCount>)),
)]
async fn standing(
    State(shared): State<Shared>,
    operator: Operator,
) -> Result<Json<Page<CustomerCount>>, Problem> {
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let counts = figures::standings(tx.conn()).await?;
    looked(&mut tx, &operator, SHOWN, "standings", Value::Null).await?;
    tx.commit().await?;
    Ok(Json(Page::only(counts)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CustomersQuery {
    #[param(inline)]
    standing: Standing,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

impl ListQuery for CustomersQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!(self.standing)
    }
}

/// Who pays, is past due, tries or is free
///
/// Oldest first. With `Accept: text/csv`, the response has all of them, unpaged.
#[utoipa::path(
    get,
    path = "/api/operator/figures/customers",
    operation_id = "listFiguresCustomers",
    tag = "Operators",
    params(CustomersQuery),
    responses((status = 200, description = "A page of organizations, or all of them as CSV.",
               content((Page<Customer> = "application/json"), (String = "text/csv")))),
)]
async fn paying(
    State(shared): State<Shared>,
    operator: Operator,
    Query(query): Query<CustomersQuery>,
    wanted: Option<Extension<Wanted>>,
) -> Result<Response, Problem> {
    let page = shared
        .page::<Customer>(Uuid::nil(), "figures-customers", &query)
        .await?;
    let standing = query.standing.name();
    let whole = wants_csv(wanted);
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = match whole {
        true => Vec::new(),
        false => figures::customers(tx.conn(), standing, page.after, page.rows()).await?,
    };
    let filters = json!({"standing": query.standing});
    looked(&mut tx, &operator, CUSTOMERS_LISTED, "customers", filters).await?;
    tx.commit().await?;
    if whole {
        return Ok(customers_csv(shared, standing));
    }
    Ok(Json(page.of(rows)).into_response())
}

/// All organizations of a standing.
pub fn customers_csv(shared: Shared, standing: &'static str) -> Response {
    export("customers", csv::CUSTOMERS, move |after: Option<Uuid>| {
        let shared = shared.clone();
        async move {
            let mut tx = WorkerTx::begin(&shared.pool).await?;
            let rows = figures::customers(tx.conn(), standing, after, AT_ONCE).await?;
            let next = rows.last().map(|last| last.organization_id);
            Ok((csv::customers(&rows), next))
        }
    })
}

/// A file of this name.
pub fn csv_of(name: &str, text: impl Into<Body>) -> Response {
    let disposition = format!("attachment; filename=\"{name}.csv\"");
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    (headers, text.into()).into_response()
}

/// Breaks the connection of an export that cannot be completed.
#[derive(Debug, thiserror::Error)]
#[error("the export was cut off")]
struct Interrupted;

/// Streams rows as fast as the client reads. Each part is read in its own transaction, so that
/// a slow client holds none open.
fn export<P: Send + 'static, R>(
    name: &str,
    headings: &'static str,
    read: impl Fn(Option<P>) -> R + Send + 'static,
) -> Response
where
    R: Future<Output = Result<(String, Option<P>), sqlx::Error>> + Send + 'static,
{
    // Outside: whether there is a next part; inside: after which row.
    let rest = stream::try_unfold(Some(None), move |place: Option<Option<P>>| {
        let reading = place.map(&read);
        async move {
            let Some(reading) = reading else {
                return Ok(None);
            };
            let (lines, next) = reading.await.map_err(|error| {
                tracing::warn!(%error, "an export of figures was cut off");
                Interrupted
            })?;
            Ok(Some((lines, next.map(Some))))
        }
    });
    let text = stream::once(async move { Ok::<_, Interrupted>(headings.to_owned()) }).chain(rest);
    csv_of(name, Body::from_stream(text))
}
