//! The operator's own account: sessions, password and second factor. Who only reads may change
//! these as well: they are their own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::Console;
use super::screen::entry::Picture;
use super::screen::{Block, Cell, Field, Form, Refusal, Screen, Tone};
use super::session::{Fields, Posted, Signed, led_to};
use super::session_list::{self, SessionQuery, ended_already};
use super::webhooks::{button, notice, unknown_act};
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{
    self, By, LoginError, Own, OwnError, Proposal, SecondFactor, User, id_of_token,
};

pub const PATH: &str = "/console/account";
pub const ENROLMENT: &str = "/console/account/second-factor";
/// The audit action of a look.
const SHOWN: &str = "operator_shown";

/// The operator who looks: a person, as keys have no cookie.
async fn me(console: &Console, signed: &Signed) -> Result<User, Refusal> {
    let id = signed.operator.user_id().ok_or_else(unknown_act)?;
    Ok(auth::user(&console.shared.pool, id)
        .await
        .map_err(Problem::from)?)
}

fn own<'a>(signed: &'a Signed, user: &User) -> Own<'a> {
    Own {
        user_id: user.id,
        token: signed.session.token(),
        client: &signed.operator.client,
    }
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<SessionQuery>, Problem>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let screen = screen(&console, &signed, &query, None).await?;
    Ok(screen.answer())
}

async fn screen(
    console: &Console,
    signed: &Signed,
    query: &SessionQuery,
    first: Option<Block>,
) -> Result<Screen, Refusal> {
    let pool = &console.shared.pool;
    let user = me(console, signed).await?;
    let open = auth::open_sessions(&console.shared, user.id, query).await?;
    let all = auth::count_sessions(pool, user.id).await?;
    let factor = auth::second_factor_of(pool, user.id).await?;
    let password = auth::has_password(pool, user.id).await?;
    let look = (SHOWN, "user");
    auth::operator_looked(pool, &signed.operator, look, user.id.to_string()).await?;
    let this = id_of_token(signed.session.token());
    let others = (all > 1).then(|| {
        Block::Form(Form {
            title: "All other sessions".to_owned(),
            text: "They end with the next request, on every replica. This one goes on.".to_owned(),
            action: PATH.to_owned(),
            buttons: vec![button("end-others", "End the others", Tone::Plain)],
            ..Form::default()
        })
    });
    Ok(Screen::new(signed, "", "Your account")
        .lead(format!("{}, {}", user.email, user.role))
        .with_all(first)
        .with(session_list::sessions(
            open,
            Some(this),
            (PATH, Some(signed)),
        ))
        .with_all(others)
        .with_all(match (password, factor) {
            (false, _) => vec![notice(
                Tone::Plain,
                "You sign in by the identity provider",
                "Password and second factor are there.",
            )],
            (true, Some(factor)) => in_use(factor),
            (true, None) => vec![none_yet()],
        })
        .with_all(password.then(new_password)))
}

fn none_yet() -> Block {
    Block::Facts {
        title: "Second factor".to_owned(),
        rows: vec![
            ("State", Cell::Badge(Tone::Warn, "none".to_owned())),
            (
                "To have one",
                Cell::link(ENROLMENT, "Set up an authenticator"),
            ),
        ],
    }
}

fn in_use(factor: SecondFactor) -> Vec<Block> {
    let left = factor.recovery_codes;
    let tone = if left < 3 { Tone::Warn } else { Tone::Plain };
    let codes = Form {
        title: "New recovery codes".to_owned(),
        text: "Those of before end.".to_owned(),
        action: PATH.to_owned(),
        fields: vec![Field::code("Code of your authenticator")],
        buttons: vec![button("recovery-codes", "Make new ones", Tone::Plain)],
        ..Form::default()
    };
    let remove = Form {
        title: "Remove the second factor".to_owned(),
        text: "Your password alone signs you in then. To use another authenticator, remove this \
               one first."
            .to_owned(),
        fields: vec![Field::code(
            "Code of your authenticator, or a recovery code",
        )],
        buttons: vec![button("remove-second-factor", "Remove it", Tone::Bad)],
        action: PATH.to_owned(),
        ..Form::default()
    };
    vec![
        Block::Facts {
            title: "Second factor".to_owned(),
            rows: vec![
                ("State", Cell::Badge(Tone::Good, "in use".to_owned())),
                ("Since", Cell::time(factor.since)),
                ("Recovery codes left", Cell::Badge(tone, left.to_string())),
            ],
        },
        Block::Form(codes),
        Block::Form(remove),
    ]
}

fn new_password() -> Block {
    Block::Form(Form {
        title: "Change your password".to_owned(),
        text: "Your other sessions end.".to_owned(),
        action: PATH.to_owned(),
        fields: vec![
            Field::password("current", "Password of now", "current-password"),
            Field::password("new", "New password", "new-password").hint("6 to 1,024 bytes."),
            Field::password("again", "New password again", "new-password"),
        ],
        buttons: vec![button("password", "Change it", Tone::Main)],
        ..Form::default()
    })
}

/// The page with what went wrong on top, so that its forms can be sent again.
async fn refused(console: &Console, signed: &Signed, error: OwnError) -> Result<Response, Refusal> {
    let (status, text) = said(error)?;
    let first = notice(Tone::Bad, "Nothing was changed", &text);
    let query = SessionQuery::default();
    let screen = screen(console, signed, &query, Some(first)).await?;
    Ok(screen.answer_with(status))
}

/// What an operator is told; an outage is a page of its own.
pub fn said(error: OwnError) -> Result<(StatusCode, String), Refusal> {
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(match error {
        OwnError::WrongPassword => (refused, "The password of now is wrong.".to_owned()),
        OwnError::WrongCode => (
            refused,
            "The code is wrong, or was used. Wait for the next one, and compare the clock of the \
             device with the time."
                .to_owned(),
        ),
        OwnError::Differ => (refused, "The two new passwords differ.".to_owned()),
        OwnError::BeginAgain => (refused, "The form is too old. Begin again.".to_owned()),
        OwnError::AlreadyThere => (
            StatusCode::CONFLICT,
            "There is a second factor already.".to_owned(),
        ),
        OwnError::Required => (
            StatusCode::CONFLICT,
            "Operators need a second factor here (OPERATORS_REQUIRE_SECOND_FACTOR).".to_owned(),
        ),
        OwnError::Password(error) => (refused, error.to_string()),
        OwnError::Login(LoginError::Throttled { retry_after_secs }) => (
            StatusCode::TOO_MANY_REQUESTS,
            format!("Too many failed attempts. Try again in {retry_after_secs} seconds."),
        ),
        OwnError::Login(error) => return Err(Problem::from(error).into()),
    })
}

pub async fn act(
    State(console): State<Arc<Console>>,
    Posted { signed, mut fields }: Posted,
) -> Result<Response, Refusal> {
    let user = me(&console, &signed).await?;
    let pool = &console.shared.pool;
    let by = By::from(signed.operator.clone());
    let rules = console.login.rules();
    let own = own(&signed, &user);
    let code = fields.take("code");
    let done = match fields.get("do") {
        Some("end-session") => {
            let session = fields.get("session").and_then(|id| id.parse().ok());
            let session = session.ok_or_else(unknown_act)?;
            if !auth::end_session(pool, user.id, session, &by).await? {
                return Ok(ended_already(&signed, PATH));
            }
            Ok(None)
        }
        Some("end-others") => {
            let kept = Some(signed.session.token());
            auth::end_sessions(pool, user.id, kept, &by).await?;
            Ok(None)
        }
        Some("password") => change_password(&console, own, &mut fields)
            .await
            .map(|()| None),
        Some("recovery-codes") => rules.new_recovery_codes(own, &code).await.map(Some),
        Some("remove-second-factor") => rules.remove_second_factor(own, &code).await.map(|()| None),
        _ => return Err(unknown_act().into()),
    };
    match done {
        Ok(None) => Ok(led_to(PATH)),
        Ok(Some(codes)) => Ok(Screen::new(&signed, "", "Recovery codes")
            .above(PATH, "Your account")
            .with(recovery_codes(&codes))
            .answer()),
        Err(error) => refused(&console, &signed, error).await,
    }
}

async fn change_password(
    console: &Console,
    own: Own<'_>,
    fields: &mut Fields,
) -> Result<(), OwnError> {
    let (current, new) = (fields.take("current"), fields.take("new"));
    if new != fields.take("again") {
        return Err(OwnError::Differ);
    }
    console
        .login
        .rules()
        .change_password(own, current, new)
        .await
}

/// The codes, which are shown once.
pub fn recovery_codes(codes: &[String]) -> Block {
    Block::Code {
        title: "Your recovery codes".to_owned(),
        note: "Each signs you in once, in the place of a code, should you lose the authenticator. Keep \
               them where it is not: they are not shown again."
            .to_owned(),
        text: codes.join("\n"),
    }
}

pub async fn enrolment(
    State(console): State<Arc<Console>>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let user = me(&console, &signed).await?;
    let proposal = console.login.rules().propose(user.id, &user.email).await?;
    Ok(enrolment_screen(&signed, &proposal, None).answer())
}

fn enrolment_screen(signed: &Signed, proposal: &Proposal, first: Option<Block>) -> Screen {
    let form = Form {
        title: "Confirm it".to_owned(),
        text: "Your other sessions end.".to_owned(),
        action: ENROLMENT.to_owned(),
        hidden: vec![("proposal", proposal.sealed.clone())],
        fields: vec![
            Field::code("Code that it shows now"),
            Field::password("current", "Your password", "current-password"),
        ],
        buttons: vec![button("enrol", "Use it", Tone::Main)],
        ..Form::default()
    };
    Screen::new(signed, "", "Set up an authenticator")
        .above(PATH, "Your account")
        .with_all(first)
        .with_all(shown(proposal))
        .with(Block::Form(form))
}

/// A secret, as a picture and to be typed.
pub fn shown(proposal: &Proposal) -> Vec<Block> {
    let picture = qrcode::QrCode::new(&proposal.uri).ok().map(|code| {
        let svg = code
            .render::<qrcode::render::svg::Color>()
            .min_dimensions(224, 224)
            .build();
        Block::Picture(Picture::svg(
            &svg,
            "The secret for your authenticator, which is also below",
        ))
    });
    let facts = Block::Facts {
        title: "Add this to your authenticator".to_owned(),
        rows: vec![
            ("Secret", Cell::Code(proposal.secret.clone())),
            ("Address", Cell::Code(proposal.uri.clone())),
        ],
    };
    picture.into_iter().chain([facts]).collect()
}

pub async fn enrol(
    State(console): State<Arc<Console>>,
    Posted { signed, mut fields }: Posted,
) -> Result<Response, Refusal> {
    let user = me(&console, &signed).await?;
    let rules = console.login.rules();
    let (sealed, code) = (fields.take("proposal"), fields.take("code"));
    let current = fields.take("current");
    match rules
        .enrol(own(&signed, &user), current, &sealed, &code)
        .await
    {
        Ok(codes) => Ok(Screen::new(&signed, "", "Second factor")
            .above(PATH, "Your account")
            .with(notice(
                Tone::Good,
                "It is in use",
                "From now on your password needs a code.",
            ))
            .with(recovery_codes(&codes))
            .answer()),
        Err(error) => {
            let (status, text) = said(error)?;
            let again = rules.proposed_again(user.id, &user.email, &sealed).await?;
            let first = notice(Tone::Bad, "Nothing was changed", &text);
            Ok(enrolment_screen(&signed, &again, Some(first)).answer_with(status))
        }
    }
}
