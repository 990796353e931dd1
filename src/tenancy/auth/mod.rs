//! Who is calling, and what they may do. The organization comes from the
//! credential and from nothing else; only a service key's requests name one.

mod admission;
mod api_keys;
mod browser;
mod by;
mod callers;
mod customer;
mod guard;
pub mod issued;
mod key_routes;
mod lists;
mod login;
mod lookup;
mod oidc;
mod operator_key_routes;
mod operator_keys;
pub mod operator_routes;
mod operators;
mod own;
mod password;
mod policy;
pub mod portal_routes;
pub mod portal_sessions;
mod principal;
mod routes;
mod second_factor;
mod service_keys;
mod session_routes;
mod sessions;
mod sign_in;
mod store;
mod throttle;
mod token;
mod users;

/// The audit actions of what concerns operators alone.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [
        operator_key_routes::LISTED,
        operator_keys::CREATED,
        operator_keys::REVOKED,
        sign_in::SIGNED_IN,
        sign_in::SIGNED_OUT,
        second_factor::ENROLLED,
        second_factor::REMOVED,
        second_factor::RESET,
        second_factor::CODES_MADE,
        second_factor::CODE_USED,
        oidc::ROLE_SET,
        session_routes::LISTED,
        sessions::ENDED,
        sessions::ALL_ENDED,
        operators::LISTED,
        operators::SHOWN,
    ]
    .into_iter()
}

pub use api_keys::{ApiKey, ApiKeyError, NewApiKey, create_api_key, list_api_keys, revoke_api_key};
pub use browser::{BrowserSession, SessionCookie};
pub use by::By;
pub use guard::{Guard, Standing};
pub use lists::Part;
pub use login::{Begun, LoginError, Logins};
pub use oidc::{
    Answered, CALLBACK as OIDC_CALLBACK, Failure as SignOnFailure, SingleSignOn,
    reach as reach_provider,
};
pub use operator_keys::{
    DoubtfulKey, NewOperatorKey, OperatorKey, create_operator_key, doubtful_operator_keys,
    list_operator_keys, revoke_operator_key,
};
pub use operators::{
    OperatorUser, addresses_of, find_operator, has_password, list_operators, operator_looked,
};
pub use own::{Own, OwnError};
pub use password::{Hasher, PasswordError, generated as generated_password};
pub use policy::OperatorPolicy;
pub use portal_sessions::PortalVisitor;
pub use principal::{Operator, Permission, Principal, Product, Reporter, Role};
pub use routes::{Login, routes};
pub use second_factor::{
    Proposal, SecondFactor, reset_second_factor, second_factor as second_factor_of, totp,
};
pub use service_keys::{
    NewServiceKey, ServiceKey, create_service_key, list_service_keys, revoke_service_key,
};
pub use sessions::{
    OpenSession, SignedInBy, count_sessions, end_session, end_sessions, id_of_token, open_sessions,
};
pub use sign_in::{Session, log_out};
pub use token::{Credential, parse as parse_credential, parse_portal as parse_portal_cookie};
pub use users::{
    Created, NewUser, User, UserError, Which, add_member, create_user, disable_user, enable_user,
    homeless_users, is_address, list_users, set_password, user,
};
