//! `/api/operator/users`, and the keys beside. The same functions as the commands'; every
//! access is in the audit log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::password::{PasswordError, generated};
use super::store::{self, Filter};
use super::{
    By, Created, Hasher, NewUser, Operator, Role, User, UserError, Which, create_user,
    disable_user, enable_user, key_routes, operator_key_routes, session_routes, set_password, user,
};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};

/// The audit action of a look.
const USERS_LISTED: &str = "users_listed";

/// What the handlers need.
#[derive(Clone)]
pub struct Access {
    pub(super) shared: Shared,
    hasher: Hasher,
}

impl Access {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            hasher: Hasher::default(),
        }
    }

    /// Enters that an operator looked.
    pub(super) async fn looked(
        &self,
        operator: &Operator,
        (action, kind): (&'static str, &'static str),
        organization: Option<Uuid>,
    ) -> Result<(), Problem> {
        let mut tx = WorkerTx::begin(&self.shared.pool).await?;
        let entry = operator.did(action, organization, kind, "all".to_owned());
        audit::record_one(&mut tx, entry).await?;
        Ok(tx.commit().await?)
    }
}

pub fn routes() -> Routes<Access> {
    session_routes::routes()
        .route(routes!(users), operator())
        .route(routes!(create), operator().secret())
        .route(routes!(disable), operator())
        .route(routes!(enable), operator())
        .route(routes!(reset_password), operator().secret())
        .merge(key_routes::routes())
        .merge(operator_key_routes::routes())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct UserQuery {
    /// Only those of this organization.
    organization_id: Option<Uuid>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

impl ListQuery for UserQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!(self.organization_id)
    }
}

impl Listed for User {
    type Position = (Timestamp, Uuid, Uuid);

    fn position(&self) -> Self::Position {
        let organization = self.organization_id.unwrap_or_default();
        (self.created_at, self.id, organization)
    }
}

/// Users, oldest first, each once for each of their organizations
#[utoipa::path(
    get,
    path = "/api/operator/users",
    operation_id = "listUsers",
    tag = "Operators",
    params(UserQuery),
    responses((status = 200, description = "A page of users.", body = Page<User>)),
)]
async fn users(
    State(access): State<Access>,
    operator: Operator,
    Query(query): Query<UserQuery>,
) -> Result<Json<Page<User>>, Problem> {
    let page = access.shared.page(Uuid::nil(), "users", &query).await?;
    let filter = Filter {
        organization: query.organization_id,
        after: page.after,
        limit: Some(page.rows()),
        ..Filter::default()
    };
    let mut tx = WorkerTx::begin(&access.shared.pool).await?;
    let rows = store::users(tx.conn(), filter).await?;
    tx.rollback().await?;
    access
        .looked(&operator, (USERS_LISTED, "user"), None)
        .await?;
    Ok(Json(page.of(rows)))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewUser)]
struct UserBody {
    /// The address that the user logs in with.
    #[schema(max_length = 254, example = "jo@example.com")]
    email: String,
    /// `owner`, `billing_manager`, `member`, `operator` or `operator.read`
    #[schema(example = "billing_manager")]
    role: String,
    /// The user's organization; operators have none.
    organization_id: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedUser {
    #[serde(flatten)]
    user: User,
    /// Whether the user was there before, and became a member.
    existed: bool,
    /// In this answer and in no other; null if the user was there, who keeps the password.
    #[schema(required)]
    password: Option<String>,
}

/// Create a user, or make one who exists a member of the organization
///
/// The password is generated.
#[utoipa::path(
    post,
    path = "/api/operator/users",
    operation_id = "createUser",
    tag = "Operators",
    request_body = UserBody,
    responses((status = 201, description = "The user, with the password.", body = CreatedUser)),
)]
async fn create(
    State(access): State<Access>,
    operator: Operator,
    extract::Json(body): extract::Json<UserBody>,
) -> Result<(StatusCode, Json<CreatedUser>), Problem> {
    let role = Role::named(&body.role).ok_or_else(|| {
        let names = Role::ALL.map(Role::as_str).join(", ");
        invalid_user(&format!("role: expected one of {names}"))
    })?;
    if role.is_operator() && operator.user_id().is_none() {
        return Err(keys_make_none());
    }
    let password = generated();
    let new = NewUser {
        email: body.email,
        role,
        organization_id: body.organization_id,
        password: password.clone(),
    };
    let by = By::from(operator);
    let created = create_user(&access.shared.pool, &access.hasher, new, &by).await?;
    let (user, existed) = match created {
        Created::User(user) => (user, false),
        Created::Member(user) => (user, true),
    };
    let created = CreatedUser {
        user,
        existed,
        password: (!existed).then_some(password),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// End a user's sessions, and let them log in no more
#[utoipa::path(
    post,
    path = "/api/operator/users/{user}/disable",
    operation_id = "disableUser",
    tag = "Operators",
    params(("user" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = User)),
)]
async fn disable(
    State(access): State<Access>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<Json<User>, Problem> {
    if operator.user_id() == Some(id) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "own_user",
            "this would lock you out; another operator can do it",
        ));
    }
    let pool = &access.shared.pool;
    disable_user(pool, Which::Id(id), &By::from(operator)).await?;
    Ok(Json(user(pool, id).await?))
}

/// Let a disabled user log in again
#[utoipa::path(
    post,
    path = "/api/operator/users/{user}/enable",
    operation_id = "enableUser",
    tag = "Operators",
    params(("user" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = User)),
)]
async fn enable(
    State(access): State<Access>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<Json<User>, Problem> {
    let pool = &access.shared.pool;
    enable_user(pool, Which::Id(id), &By::from(operator)).await?;
    Ok(Json(user(pool, id).await?))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserPassword {
    #[serde(flatten)]
    user: User,
    /// In this answer and in no other.
    password: String,
}

/// Give a user a new password, which is generated, and end their sessions
#[utoipa::path(
    post,
    path = "/api/operator/users/{user}/password",
    operation_id = "setUserPassword",
    tag = "Operators",
    params(("user" = Uuid, Path, description = "The user's id.")),
    responses((status = 200, description = "The user, with the password.", body = UserPassword)),
)]
async fn reset_password(
    State(access): State<Access>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<Json<UserPassword>, Problem> {
    let pool = &access.shared.pool;
    // A session alone, which may be stolen, gets no password that outlives it.
    if operator.user_id() == Some(id) {
        return Err(conflict(
            "own_user",
            "your own password is changed in the console (Your account), which asks for the one \
             of now; `users set-password` gives a new one",
        ));
    }
    let role = Role::named(&user(pool, id).await?.role);
    if role.is_none_or(Role::is_operator) {
        return Err(conflict(
            "another_operator",
            "what an operator does is entered under their name, so that none gets another's \
             password; `users set-password` gives a new one",
        ));
    }
    let (password, by) = (generated(), By::from(operator));
    let which = Which::Id(id);
    let user = set_password(pool, &access.hasher, which, password.clone(), &by).await?;
    Ok(Json(UserPassword { user, password }))
}

/// What a stolen key made would outlive it.
pub(super) fn keys_make_none() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "a key makes no operators and no operators' keys; an operator who has logged in does, or \
         the command line",
    )
}

fn invalid_user(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_user", detail)
}

pub(super) fn conflict(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, detail)
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Database(error) => error.into(),
            UserError::Unknown(_) => Self::not_found("user not found"),
            UserError::Organization(_) => Self::not_found("organization not found"),
            UserError::Exists(_) => conflict("user_exists", "there is a user with this address"),
            UserError::AlreadyMember(..) => conflict(
                "user_exists",
                "the user is a member of that organization already",
            ),
            UserError::Erased(_) => conflict(
                "organization_erased",
                "the organization was erased, and takes no more changes",
            ),
            UserError::OperatorWithOrganization => {
                invalid_user("organizationId: operators belong to no organization; leave it out")
            }
            UserError::NoOrganization => {
                invalid_user("organizationId: name the organization that the user belongs to")
            }
            UserError::Email(_) => invalid_user("email: is not an e-mail address"),
            UserError::Password(PasswordError::Busy) => {
                Self::unavailable("busy", "too many passwords at the moment; try again")
                    .retry_after(1)
            }
            UserError::Password(error) => invalid_user(&error.to_string()),
        }
    }
}
