//! The demo's organizations. Each run makes new ones: the customers of an earlier
//! run were in an account that is gone.

use jiff::Timestamp;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::super::Failure;
pub use super::super::running_demo::Login;
use super::account::{Account, GOOD_CARD, use_card};
use crate::catalogue::{Catalogue, FREE_TIER};
use crate::tenancy::auth::{
    self, By, Hasher, NewApiKey, NewUser, Permission, Role, UserError, Which,
};
use crate::tenancy::organizations::{self, NewOrganization};

/// The organizations that the traffic acts for.
const SAMPLES: [&str; 3] = [
    "Northwind Analytics",
    "Blue Harbor Labs",
    "Quiet Pine Studio",
];
/// The organization of the login.
const YOURS: &str = "Example Company";

/// The operator's address, which nobody else has.
const OPERATOR: &str = "demo-operator@example.com";

/// An organization that the traffic acts for.
pub struct Tenant {
    pub organization_id: Uuid,
    pub customer: String,
    pub api_key: String,
}

/// Marks the organizations of earlier demos in their names; returns how many there
/// are.
pub async fn set_aside(owner: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let names = [&SAMPLES[..], &[YOURS]].concat();
    organizations::mark(owner, &names, " (an earlier demo's)").await
}

/// The login, for a new organization on the free plan whose customer has a card.
pub async fn login(
    pool: &PgPool,
    catalogue: &Catalogue,
    account: &Account,
) -> Result<Login, Failure> {
    let (email, password) = ("test@example.com", "test123");
    let tenant = tenant(pool, catalogue, account, YOURS).await?;
    let new = NewUser {
        email: email.to_owned(),
        role: Role::Owner,
        organization_id: Some(tenant.organization_id),
        password: password.to_owned(),
    };
    // If an earlier demo made it, it moves to this demo's organization.
    auth::create_user(pool, &Hasher::default(), new, &By::SYSTEM).await?;
    let operator_password = operator(pool).await?;
    Ok(Login {
        operator: OPERATOR.to_owned(),
        operator_password,
        email: email.to_owned(),
        password: password.to_owned(),
        api_key: tenant.api_key,
    })
}

/// The operator, who sees whatever is in the data directory: with a password of this run alone.
/// `serve` disables it.
async fn operator(pool: &PgPool) -> Result<String, Failure> {
    let password = hex::encode(rand::random::<[u8; 8]>());
    let hasher = Hasher::default();
    let new = NewUser {
        email: OPERATOR.to_owned(),
        role: Role::Operator,
        organization_id: None,
        password: password.clone(),
    };
    match auth::create_user(pool, &hasher, new, &By::SYSTEM).await {
        Ok(_) => {}
        // An earlier demo made it.
        Err(UserError::Exists(_)) => {
            auth::set_password(
                pool,
                &hasher,
                Which::Email(OPERATOR),
                password.clone(),
                &By::SYSTEM,
            )
            .await?;
            auth::enable_user(pool, Which::Email(OPERATOR), &By::SYSTEM).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(password)
}

/// Disables the operator of a demo that ran in this data directory, if one did.
pub async fn disable_operator(pool: &PgPool) -> Result<(), Failure> {
    match auth::disable_user(pool, Which::Email(OPERATOR), &By::SYSTEM).await {
        Ok(_) | Err(UserError::Unknown(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub async fn samples(
    pool: &PgPool,
    catalogue: &Catalogue,
    account: &Account,
) -> Result<Vec<Tenant>, Failure> {
    let mut tenants = Vec::new();
    for name in SAMPLES {
        tenants.push(tenant(pool, catalogue, account, name).await?);
    }
    Ok(tenants)
}

async fn tenant(
    pool: &PgPool,
    catalogue: &Catalogue,
    account: &Account,
    name: &str,
) -> Result<Tenant, Failure> {
    let customer = account.customer(name).await?;
    let new = NewOrganization {
        name: name.to_owned(),
        plan_tier: FREE_TIER.to_owned(),
        stripe_customer_id: Some(customer.clone()),
    };
    let organization_id = organizations::create(pool, catalogue, new).await?.id;
    // After the organization, so that the event finds it.
    use_card(&account.client, &customer, GOOD_CARD).await?;
    let new = NewApiKey {
        organization_id,
        name: "demo".to_owned(),
        scopes: Permission::ALL.to_vec(),
        expires_at: None,
    };
    let (_, api_key) = auth::create_api_key(pool, new, Timestamp::now(), &By::SYSTEM).await?;
    Ok(Tenant {
        organization_id,
        customer,
        api_key,
    })
}
