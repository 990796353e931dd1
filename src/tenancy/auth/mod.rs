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
mod login;
mod lookup;
pub mod operator_routes;
mod password;
pub mod portal_routes;
pub mod portal_sessions;
mod principal;
mod routes;
mod service_keys;
mod store;
mod throttle;
mod token;
mod users;

pub use api_keys::{ApiKey, ApiKeyError, NewApiKey, create_api_key, list_api_keys, revoke_api_key};
pub use browser::{BrowserSession, SessionCookie};
pub use by::By;
pub use guard::{Guard, Standing};
pub use login::{LoginError, Logins, Session, log_out};
pub use password::{Hasher, PasswordError, generated as generated_password};
pub use portal_sessions::PortalVisitor;
pub use principal::{Operator, Permission, Principal, Product, Reporter, Role};
pub use routes::{Login, routes};
pub use service_keys::{
    NewServiceKey, ServiceKey, create_service_key, list_service_keys, revoke_service_key,
};
pub use token::{Credential, parse as parse_credential, parse_portal as parse_portal_cookie};
pub use users::{
    Created, NewUser, User, UserError, Which, add_member, create_user, disable_user, enable_user,
    homeless_users, is_address, list_users, set_password, user,
};
