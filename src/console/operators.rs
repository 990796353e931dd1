//! Operators, their sessions, and keys: the operators' own and the product's.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

use super::query::{address, filled};
use super::screen::entry::RowForm;
use super::screen::{Block, Cell, Field, Form, Grid, Refusal, Screen, Tone};
use super::session::{Acting, Posted, Signed, led_to};
use super::session_list::{SessionQuery, ended_already, sessions};
use super::webhooks::{button, unknown_act};
use super::{Console, account};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, Listed, PageRequest, Paging};
use crate::server::problem::Problem;
use crate::tenancy::auth::{
    self, By, NewOperatorKey, OperatorKey, OperatorUser, Part, Role, ServiceKey,
};

pub const PATH: &str = "/console/operators";
pub const ONE: &str = "/console/operators/{user}";
/// The audit actions of looks at operators.
const LISTED: &str = "operators_listed";
const SHOWN: &str = "operator_shown";

/// How long a new key lasts.
const LASTS: [(&str, &str, Option<i64>); 4] = [
    ("90", "90 days", Some(90)),
    ("30", "30 days", Some(30)),
    ("365", "a year", Some(365)),
    ("0", "until it is revoked", None),
];

fn page_of(user: Uuid) -> String {
    format!("{PATH}/{user}")
}

/// Where each of the page's lists goes on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cursors {
    #[serde(default, deserialize_with = "filled")]
    operators: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    keys: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    service_keys: Option<String>,
}

impl Cursors {
    /// The page with one of its lists further on, the others as they are.
    fn next(&self, list: &str, cursor: Option<String>) -> Option<String> {
        let cursor = cursor?;
        let of = |name: &'static str, held: &Option<String>| match name == list {
            true => (name, Some(cursor.clone())),
            false => (name, held.clone()),
        };
        let all = [
            of("operators", &self.operators),
            of("keys", &self.keys),
            of("service-keys", &self.service_keys),
        ];
        let all: Vec<(&str, Option<&str>)> = all
            .iter()
            .map(|(name, cursor)| (*name, cursor.as_deref()))
            .collect();
        Some(address(PATH, &all))
    }
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<Cursors>, Problem>,
) -> Result<Response, Refusal> {
    let Query(cursors) = query?;
    Ok(screen(&console, &signed, &cursors, None).await?.answer())
}

/// A page of a list that has a cursor of its own.
async fn page_of_list<T: Listed>(
    console: &Console,
    list: &'static str,
    cursor: &Option<String>,
) -> Result<PageRequest<T>, Problem> {
    let paging = Paging {
        limit: Limit::default(),
        cursor: cursor.clone(),
    };
    console.shared.page(Uuid::nil(), list, &paging).await
}

async fn screen(
    console: &Console,
    signed: &Signed,
    cursors: &Cursors,
    first: Option<Block>,
) -> Result<Screen, Refusal> {
    let pool = &console.shared.pool;
    let page = page_of_list(console, "console operators", &cursors.operators).await?;
    let operators = page.of(auth::list_operators(pool, Part::from(&page)).await?);
    let page = page_of_list(console, "console operators' keys", &cursors.keys).await?;
    let own_keys = page.of(auth::list_operator_keys(pool, Part::from(&page)).await?);
    let page = page_of_list(console, "console service keys", &cursors.service_keys).await?;
    let service_keys = page.of(auth::list_service_keys(pool, Part::from(&page)).await?);
    let look = (LISTED, "user");
    auth::operator_looked(pool, &signed.operator, look, "all".to_owned()).await?;
    let makers: Vec<Uuid> = own_keys
        .data
        .iter()
        .filter_map(|key| key.created_by)
        .collect();
    let names = auth::addresses_of(pool, &makers).await?;
    let keys = own_keys
        .data
        .iter()
        .map(|key| operator_key(signed, key, &names));
    let of_service = service_keys.data.iter().map(|key| service_key(signed, key));
    let screen = Screen::new(signed, PATH, "Operators and keys")
        .lead("Who may look at all organizations, and with what.")
        .with_all(first)
        .with(Block::Grid(Grid {
            title: "Operators".to_owned(),
            note: Some("`valuecanvas-billing users create --role operator` makes one, `users disable` ends one.".to_owned()),
            columns: vec!["E-mail", "Role", "Signs in with", "Sessions", "Last seen"],
            rows: operators
                .data
                .iter()
                .map(|operator| row(signed, operator))
                .collect(),
            empty: "There are none.",
            next: cursors.next("operators", operators.next_cursor),
        }))
        .with(Block::Grid(Grid {
            title: "Operators' keys".to_owned(),
            note: Some("Each does by `/api/operator` what its role does, and nothing elsewhere.".to_owned()),
            columns: vec!["Name", "Key", "Role", "Made", "Last used", "State"],
            rows: keys.collect(),
            empty: "There are none.",
            next: cursors.next("keys", own_keys.next_cursor.clone()),
        }))
        .with_all(signed.may_act().then(new_key))
        .with(Block::Grid(Grid {
            title: "Service keys".to_owned(),
            note: Some("The product's: `valuecanvas-billing api-keys create --service` makes one.".to_owned()),
            columns: vec!["Name", "Key", "Scopes", "Made", "Last used", "State"],
            rows: of_service.collect(),
            empty: "There are none.",
            next: cursors.next("service-keys", service_keys.next_cursor.clone()),
        }));
    Ok(screen)
}

fn row(signed: &Signed, operator: &OperatorUser) -> Vec<Cell> {
    let own = signed.operator.user_id() == Some(operator.id);
    let page = match own {
        true => account::PATH.to_owned(),
        false => page_of(operator.id),
    };
    let mut who = vec![Cell::link(page, &operator.email)];
    who.extend(
        operator
            .disabled_at
            .map(|_| Cell::Badge(Tone::Warn, "disabled".to_owned())),
    );
    let signs_in = match (operator.password, operator.second_factor) {
        (_, true) => Cell::Badge(Tone::Good, "password and code".to_owned()),
        (true, false) => Cell::Badge(Tone::Warn, "password alone".to_owned()),
        (false, false) => Cell::text("identity provider"),
    };
    vec![
        Cell::Many(who),
        Cell::text(&operator.role),
        signs_in,
        Cell::Number(operator.sessions.to_string()),
        Cell::maybe(operator.last_seen_at, Cell::time),
    ]
}

/// Whether a key is valid, and a button that ends it.
fn state_of(
    signed: &Signed,
    kind: &'static str,
    (id, name): (Uuid, &str),
    revoked_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
) -> Cell {
    let state = match (revoked_at, expires_at) {
        (Some(_), _) => return Cell::Badge(Tone::Plain, "revoked".to_owned()),
        (None, Some(at)) if at <= Timestamp::now() => {
            return Cell::Badge(Tone::Plain, "expired".to_owned());
        }
        (None, Some(at)) => Cell::Many(vec![Cell::text("until"), Cell::time(at)]),
        (None, None) => Cell::text("no end"),
    };
    let revoke = signed.may_act().then(|| {
        Cell::Act(RowForm {
            action: PATH.to_owned(),
            csrf: signed.session.form_token(),
            hidden: vec![("kind", kind.to_owned()), ("key", id.to_string())],
            value: "ask-revoke",
            label: "Revoke",
            about: name.to_owned(),
            tone: Tone::Bad,
        })
    });
    Cell::Many([state].into_iter().chain(revoke).collect())
}

fn operator_key(signed: &Signed, key: &OperatorKey, names: &HashMap<Uuid, String>) -> Vec<Cell> {
    let mut made = vec![Cell::time(key.created_at)];
    made.extend(key.created_by.map(|id| match names.get(&id) {
        Some(name) => Cell::link(page_of(id), name),
        None => Cell::text(id.to_string()),
    }));
    vec![
        Cell::text(&key.name),
        Cell::Code(format!("{}…", key.prefix)),
        Cell::text(&key.role),
        Cell::Many(made),
        Cell::maybe(key.last_used_at, Cell::time),
        state_of(
            signed,
            "operator",
            (key.id, &key.name),
            key.revoked_at,
            key.expires_at,
        ),
    ]
}

fn service_key(signed: &Signed, key: &ServiceKey) -> Vec<Cell> {
    vec![
        Cell::text(&key.name),
        Cell::Code(format!("{}…", key.prefix)),
        Cell::text(key.scopes.join(" ")),
        Cell::time(key.created_at),
        Cell::maybe(key.last_used_at, Cell::time),
        state_of(
            signed,
            "service",
            (key.id, &key.name),
            key.revoked_at,
            key.expires_at,
        ),
    ]
}

fn new_key() -> Block {
    let roles = vec![
        ("operator.read", "operator.read: looks, and changes nothing"),
        ("operator", "operator: does everything"),
    ];
    let lasts = LASTS.map(|(value, name, _)| (value, name)).to_vec();
    Block::Form(Form {
        title: "Make an operators' key".to_owned(),
        text: "It is shown once.".to_owned(),
        action: PATH.to_owned(),
        fields: vec![
            Field::asked("name", "Name").hint("By which it is recognized."),
            Field::choice("role", "Role", roles),
            Field::choice("lasts", "It lasts", lasts),
        ],
        buttons: vec![button("create-key", "Make it", Tone::Main)],
        ..Form::default()
    })
}

pub async fn act(
    State(console): State<Arc<Console>>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let pool = &console.shared.pool;
    let by = By::from(signed.operator.clone());
    let key = || fields.get("key").and_then(|id| id.parse::<Uuid>().ok());
    match (fields.get("do"), fields.get("kind")) {
        (Some("create-key"), _) => {
            let days = LASTS
                .iter()
                .find(|(value, ..)| Some(*value) == fields.get("lasts"));
            let (.., days) = days.ok_or_else(unknown_act)?;
            let role = fields.get("role").and_then(Role::named);
            let now = Timestamp::now();
            let new = NewOperatorKey {
                name: fields.get("name").unwrap_or_default().to_owned(),
                role: role.ok_or_else(unknown_act)?,
                created_by: signed.operator.user_id(),
                expires_at: days.map(|days| now + SignedDuration::from_hours(24 * days)),
            };
            let (key, secret) = auth::create_operator_key(pool, new, now, &by)
                .await
                .map_err(Problem::from)?;
            let made = Block::Code {
                title: format!("The key {}", key.name),
                note: "Copy it now: it is not shown again.".to_owned(),
                text: secret,
            };
            Ok(Screen::new(&signed, PATH, "Operators' key")
                .above(PATH, "Operators and keys")
                .with(made)
                .answer())
        }
        (Some("ask-revoke"), Some(kind)) => {
            let id = key().ok_or_else(unknown_act)?;
            let asked = ask(kind, id);
            let cursors = Cursors::default();
            let screen = screen(&console, &signed, &cursors, Some(asked)).await?;
            Ok(screen.answer())
        }
        (Some("revoke-key"), Some(kind)) => {
            let id = key().ok_or_else(unknown_act)?;
            let revoked = match kind {
                "operator" => auth::revoke_operator_key(pool, id, &by).await,
                "service" => auth::revoke_service_key(pool, id, &by).await,
                _ => return Err(unknown_act().into()),
            };
            revoked.map_err(Problem::from)?;
            Ok(led_to(PATH))
        }
        _ => Err(unknown_act().into()),
    }
}

fn ask(kind: &str, id: Uuid) -> Block {
    let whose = match kind {
        "service" => "the product's programs that use it are refused",
        _ => "the operators' programs that use it are refused",
    };
    Block::Form(Form {
        title: "Revoke the key?".to_owned(),
        text: format!(
            "It ends with the next request, on every replica: {whose}. It cannot be taken back."
        ),
        action: PATH.to_owned(),
        hidden: vec![("kind", kind.to_owned()), ("key", id.to_string())],
        buttons: vec![button("revoke-key", "Revoke it", Tone::Bad)],
        back: Some(PATH.to_owned()),
        ..Form::default()
    })
}

pub async fn one(
    State(console): State<Arc<Console>>,
    Path(user): Path<Uuid>,
    signed: Signed,
    query: Result<Query<SessionQuery>, Problem>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    if signed.operator.user_id() == Some(user) {
        return Ok(led_to(account::PATH));
    }
    let pool = &console.shared.pool;
    let found = found(&console, user).await?;
    let open = auth::open_sessions(&console.shared, user, &query).await?;
    let look = (SHOWN, "user");
    auth::operator_looked(pool, &signed.operator, look, user.to_string()).await?;
    let may_act = signed.may_act();
    let state = match found.disabled_at {
        Some(at) => Cell::Many(vec![
            Cell::Badge(Tone::Warn, "disabled".to_owned()),
            Cell::time(at),
        ]),
        None => Cell::text("may sign in"),
    };
    let second_factor = match found.second_factor {
        true => Cell::Badge(Tone::Good, "in use".to_owned()),
        false if found.password => Cell::Badge(Tone::Warn, "none".to_owned()),
        false => Cell::text("the identity provider's"),
    };
    let action = page_of(user);
    let end_all = (may_act && !open.data.is_empty()).then(|| {
        Block::Form(Form {
            title: "All of these sessions".to_owned(),
            text:
                "They end with the next request, on every replica; so do those of other pages of \
                   the list."
                    .to_owned(),
            action: action.clone(),
            buttons: vec![button("end-all", "End them all", Tone::Bad)],
            ..Form::default()
        })
    });
    Ok(Screen::new(&signed, PATH, &found.email)
        .above(PATH, "Operators and keys")
        .with(Block::Facts {
            title: "Operator".to_owned(),
            rows: vec![
                ("Role", Cell::text(&found.role)),
                ("State", state),
                ("Second factor", second_factor),
                ("Since", Cell::time(found.created_at)),
                ("Id", Cell::Code(found.id.to_string())),
            ],
        })
        .with(sessions(open, None, (&action, may_act.then_some(&signed))))
        .with_all(end_all)
        .answer())
}

async fn found(console: &Console, user: Uuid) -> Result<OperatorUser, Refusal> {
    let found = auth::find_operator(&console.shared.pool, user).await?;
    Ok(found.ok_or_else(|| Problem::not_found("There is no operator with this id."))?)
}

pub async fn end(
    State(console): State<Arc<Console>>,
    Path(user): Path<Uuid>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let pool = &console.shared.pool;
    found(&console, user).await?;
    let by = By::from(signed.operator.clone());
    match fields.get("do") {
        Some("end-session") => {
            let session = fields.get("session").and_then(|id| id.parse().ok());
            let session = session.ok_or_else(unknown_act)?;
            if !auth::end_session(pool, user, session, &by).await? {
                return Ok(ended_already(&signed, &page_of(user)));
            }
        }
        Some("end-all") => {
            auth::end_sessions(pool, user, None, &by).await?;
        }
        _ => return Err(unknown_act().into()),
    }
    Ok(led_to(&page_of(user)))
}
