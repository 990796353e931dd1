//! `/api/organizations`: the product makes, finds, changes and archives its
//! organizations by its own ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::managed::{self, Change, ManageError, MetadataChange, Put};
use super::{AskedBy, CreateError, Organization};
use crate::audit::Actor;
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::{self, Limit, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, Share, service};
use crate::tenancy::auth::Product;
use crate::tenancy::names::{self, EXPECTED, is_external_id};

/// What the handlers need.
#[derive(Clone)]
pub struct ManagedOrganizations {
    pub shared: Shared,
    pub catalogue: Arc<Catalogue>,
}

pub fn routes() -> Routes<ManagedOrganizations> {
    let manage = service(Permission::OrganizationsManage);
    let change = manage.share(Share::Organizations);
    Routes::new()
        .route(routes!(list), manage)
        .route(routes!(put), change)
        .route(routes!(get), manage)
        .route(routes!(patch), change)
        .route(routes!(archive), change)
}

impl Product {
    fn asks(self) -> AskedBy {
        AskedBy {
            actor: Actor::ApiKey(self.key_id),
            client: Some(self.client),
        }
    }
}

/// What an organization is to be.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PutOrganization)]
struct PutBody {
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        example = "Acme"
    )]
    name: String,
    /// Left out, there is none.
    #[schema(format = "email", max_length = 254, example = "billing@acme.example")]
    email: Option<String>,
    /// Up to 50 texts of up to 500 characters, by names of up to 40. Left out, there are
    /// none.
    metadata: Option<BTreeMap<String, String>>,
    /// The customer in Stripe of new subscriptions. Left out, it stays as it is.
    #[schema(pattern = "^cus_[A-Za-z0-9]{1,200}$", example = "cus_Acme1")]
    stripe_customer_id: Option<String>,
    /// The plan while no subscription runs. Left out, it stays as it is, and is the free
    /// plan at first.
    #[schema(example = "free")]
    plan_tier: Option<String>,
}

/// What is to be different.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PatchOrganization)]
struct PatchBody {
    /// Another external id, by which alone it is known from then on.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        example = "acme-eu"
    )]
    external_id: Option<String>,
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        example = "Acme"
    )]
    name: Option<String>,
    /// Null removes it.
    #[serde(default, deserialize_with = "some")]
    #[schema(format = "email", max_length = 254, example = "billing@acme.example")]
    email: Option<Option<String>>,
    /// Each text replaces that of the same name, null removes it, and others stay.
    #[schema(value_type = Option<HashMap<String, Option<String>>>)]
    metadata: Option<BTreeMap<String, Option<String>>>,
    /// The customer in Stripe of new subscriptions.
    #[schema(pattern = "^cus_[A-Za-z0-9]{1,200}$", example = "cus_Acme1")]
    stripe_customer_id: Option<String>,
    /// The plan while no subscription runs.
    #[schema(example = "free")]
    plan_tier: Option<String>,
}

/// Tells a null from what is left out.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl From<PutBody> for Change {
    fn from(body: PutBody) -> Self {
        Self {
            external_id: None,
            name: Some(body.name),
            email: Some(body.email),
            metadata: MetadataChange::Replace(body.metadata.unwrap_or_default()),
            stripe_customer_id: body.stripe_customer_id,
            plan_tier: body.plan_tier,
            restore: true,
        }
    }
}

impl From<PatchBody> for Change {
    fn from(body: PatchBody) -> Self {
        let metadata = body.metadata;
        Self {
            external_id: body.external_id,
            name: body.name,
            email: body.email,
            metadata: metadata.map_or(MetadataChange::Keep, MetadataChange::Merge),
            stripe_customer_id: body.stripe_customer_id,
            plan_tier: body.plan_tier,
            restore: false,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Path)]
struct ExternalId {
    /// The product's own id, percent-encoded: 1 to 255 printable characters, without white
    /// space at its ends. Except in PUT, our id does as well.
    #[serde(rename = "externalId")]
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        example = "acme"
    )]
    external_id: String,
}

impl ExternalId {
    /// The name in a path, which may be no text at all.
    fn of(path: Result<Path<Self>, Problem>) -> Result<String, Problem> {
        let name = path.ok().map(|Path(path)| path.external_id);
        name.filter(|name| is_external_id(name)).ok_or_else(|| {
            field_problem(
                "externalId",
                format!("{EXPECTED}, percent-encoded as UTF-8"),
            )
        })
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The beginning of a name or an e-mail address (in any case), or of an external id;
    /// or our id, or that of a customer in Stripe.
    #[param(example = "acme")]
    query: Option<String>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

impl ListQuery {
    fn text(&self) -> Option<&str> {
        self.query.as_deref().filter(|text| !text.is_empty())
    }
}

impl page::ListQuery for ListQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        self.text().into()
    }
}

/// Make an organization, or bring it to this
///
/// 201 if it was made, 200 if it was there. Of many at once one makes it. A name, an e-mail
/// address and metadata that are given replace what was there, and are removed where they are left
/// out; the customer and the plan stay as they are. An archived organization is brought back.
#[utoipa::path(
    put,
    path = "/api/organizations/{externalId}",
    operation_id = "putOrganization",
    tag = "Organizations",
    params(ExternalId),
    request_body = PutBody,
    responses(
        (status = 200, description = "It was there, and is as the request says.", body = Organization),
        (status = 201, description = "It was made.", body = Organization),
        (status = 409, description = "`stripe_customer_taken`, `stripe_customer_deleted`, \
                                      `external_id_reserved`; `subscription_running` for another plan."),
        (status = 422, description = "`unknown_plan`."),
    ),
)]
async fn put(
    State(state): State<ManagedOrganizations>,
    product: Product,
    path: Result<Path<ExternalId>, Problem>,
    extract::Json(body): extract::Json<PutBody>,
) -> Result<Response, Problem> {
    let external_id = ExternalId::of(path)?;
    let (pool, by) = (&state.shared.pool, product.asks());
    let put = managed::put(pool, &state.catalogue, &external_id, &body.into(), &by).await?;
    Ok(match put {
        Put::Made(organization) => (StatusCode::CREATED, Json(organization)).into_response(),
        Put::Brought(organization) => Json(organization).into_response(),
    })
}

/// An organization
#[utoipa::path(
    get,
    path = "/api/organizations/{externalId}",
    operation_id = "getOrganization",
    tag = "Organizations",
    params(ExternalId),
    responses((status = 200, description = "The organization.", body = Organization)),
)]
async fn get(
    State(state): State<ManagedOrganizations>,
    _: Product,
    path: Result<Path<ExternalId>, Problem>,
) -> Result<Json<Organization>, Problem> {
    let pool = &state.shared.pool;
    let id = managed::named(pool, &ExternalId::of(path)?).await?;
    let found = managed::read(pool, id).await?;
    found.map(Json).ok_or_else(names::not_found)
}

/// Change an organization
///
/// What is left out stays. An archived organization is refused (409 `organization_archived`).
#[utoipa::path(
    patch,
    path = "/api/organizations/{externalId}",
    operation_id = "patchOrganization",
    tag = "Organizations",
    params(ExternalId),
    request_body = PatchBody,
    responses(
        (status = 200, description = "The organization as it is now.", body = Organization),
        (status = 409, description = "`organization_archived`, `external_id_taken`, \
                                      `external_id_reserved`, `stripe_customer_taken`, \
                                      `stripe_customer_deleted`; `subscription_running` for another plan."),
        (status = 422, description = "`unknown_plan`."),
    ),
)]
async fn patch(
    State(state): State<ManagedOrganizations>,
    product: Product,
    path: Result<Path<ExternalId>, Problem>,
    extract::Json(body): extract::Json<PatchBody>,
) -> Result<Json<Organization>, Problem> {
    let pool = &state.shared.pool;
    let id = managed::named(pool, &ExternalId::of(path)?).await?;
    let (change, by) = (body.into(), product.asks());
    let changed = managed::patch(pool, &state.catalogue, id, &change, &by).await;
    Ok(Json(changed?))
}

/// Archive an organization
///
/// From then on it can only be read: it is charged for nothing, and no usage is counted. Its keys
/// and users read as before. PUT brings it back.
#[utoipa::path(
    delete,
    path = "/api/organizations/{externalId}",
    operation_id = "archiveOrganization",
    tag = "Organizations",
    params(ExternalId),
    responses(
        (status = 204, description = "It is archived, or was."),
        (status = 409, description = "`subscription_running`: it is billed. Cancel the subscription first."),
    ),
)]
async fn archive(
    State(state): State<ManagedOrganizations>,
    product: Product,
    path: Result<Path<ExternalId>, Problem>,
) -> Result<StatusCode, Problem> {
    let pool = &state.shared.pool;
    let id = managed::named(pool, &ExternalId::of(path)?).await?;
    managed::archive(pool, id, &product.asks()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Organizations, oldest first
///
/// Archived ones, which have `archivedAt`, are among them; erased ones are not.
#[utoipa::path(
    get,
    path = "/api/organizations",
    operation_id = "searchOrganizations",
    tag = "Organizations",
    params(ListQuery),
    responses((status = 200, description = "A page of organizations.", body = Page<Organization>)),
)]
async fn list(
    State(state): State<ManagedOrganizations>,
    _: Product,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Organization>>, Problem> {
    let shared = &state.shared;
    let page = shared.page(Uuid::nil(), "managed organizations", &query);
    let page = page.await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let found = managed::search(tx.conn(), query.text(), page.after, page.rows()).await?;
    Ok(Json(page.of(found)))
}

/// A field of the request is not as it must be.
fn field_problem(field: &str, detail: String) -> Problem {
    let detail = format!("{field}: {detail}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail).with("field", json!(field))
}

fn conflict(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, detail)
}

/// Answers are kept for an `Idempotency-Key` beyond an erasure: none repeats a name or an
/// address.
impl From<ManageError> for Problem {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::Invalid(error) => invalid(error),
            ManageError::Metadata => {
                let said = error.to_string();
                let said = said.trim_start_matches("metadata: ").to_owned();
                field_problem("metadata", said)
            }
            ManageError::CustomerDeleted => conflict(
                "stripe_customer_deleted",
                "stripeCustomerId: this customer was deleted in Stripe; name an existing one",
            ),
            ManageError::NotFound => names::not_found(),
            ManageError::Ambiguous => names::ambiguous(),
            ManageError::Archived => names::archived(),
            ManageError::Running(id) => conflict(
                "subscription_running",
                &format!(
                    "the subscription {id} is running; cancel it first: DELETE \
                     /api/billing/subscription?immediately=true"
                ),
            ),
            ManageError::Unsettled => conflict(
                "subscription_running",
                "a change of the subscription is not settled yet; send this again in a minute",
            ),
            ManageError::CheckoutOpen => conflict(
                "subscription_running",
                "a payer may still subscribe the organization on Stripe's page: expire the \
                 checkout session in Stripe, or wait until it expires, within a day; a bank \
                 debit, until it is answered",
            ),
            ManageError::Contended => Self::unavailable(
                "organization_contended",
                "others make, rename or erase this organization at the same time; send it again",
            ),
        }
    }
}

fn invalid(error: CreateError) -> Problem {
    match error {
        CreateError::Database(error) => error.into(),
        CreateError::Name => field_problem(
            "name",
            "expected 1 to 200 characters, without control characters".to_owned(),
        ),
        CreateError::Email(_) => field_problem("email", "expected an e-mail address".to_owned()),
        CreateError::CustomerId(_) => field_problem(
            "stripeCustomerId",
            "expected the id of a customer in Stripe: cus_…".to_owned(),
        ),
        CreateError::ExternalId => field_problem("externalId", EXPECTED.to_owned()),
        CreateError::Plan(_) => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unknown_plan",
            "planTier: there is no such plan; GET /api/billing/plans lists them",
        ),
        CreateError::CustomerTaken(_) => conflict(
            "stripe_customer_taken",
            "stripeCustomerId: this customer belongs to another organization",
        ),
        CreateError::ExternalIdTaken(_) => conflict(
            "external_id_taken",
            "externalId: another organization has it",
        ),
        CreateError::ExternalIdReserved(_) => conflict(
            "external_id_reserved",
            "externalId: this is the id that we gave another organization; choose another one",
        ),
    }
}
