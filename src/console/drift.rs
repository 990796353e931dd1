//! An organization beside Stripe: in sync, or what differs, field by field. Its page does not
//! wait for Stripe; the script fetches this part, and without it a link leads to a page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use uuid::Uuid;

use super::Console;
use super::organizations::{self, PATH};
use super::screen::{Block, Cell, Grid, Live, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use super::webhooks::notice;
use crate::server::extract::Path;
use crate::server::problem::Problem;
use crate::subscriptions::{Compared, Difference, Verdict};

const TITLE: &str = "Beside Stripe";

fn page_of(organization: Uuid) -> String {
    format!("{}/drift", organizations::page_of(organization))
}

/// What an organization's page has of it before it is compared.
pub fn waiting(console: &Console, organization: Uuid) -> Block {
    if !console.subscriptions.asks_stripe() {
        let why = "No STRIPE_SECRET_KEY is configured: there is nothing to compare with.";
        return notice(Tone::Plain, TITLE, why);
    }
    let page = page_of(organization);
    Block::Live(Live {
        address: Some(format!("{page}/part")),
        again: page,
        label: "Compare with Stripe",
        blocks: vec![notice(Tone::Plain, TITLE, "It is not compared yet.")],
    })
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let id = named(path)?;
    let blocks = compared(&console, &signed, id).await?;
    let screen = Screen::new(&signed, PATH, TITLE)
        .above(&organizations::page_of(id), "The organization")
        .lead(
            "The three newest customers with their subscriptions, payment methods and newest \
             invoices, as `subscriptions reconcile` compares them. Nothing is changed.",
        )
        .with_all(blocks);
    Ok(screen.answer())
}

/// The part alone, for the script of the organization's page.
pub async fn part(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let id = named(path)?;
    let live = Live {
        address: None,
        again: page_of(id),
        label: "Compare with Stripe",
        blocks: compared(&console, &signed, id).await?,
    };
    Ok(live.answer(&signed))
}

fn named(path: Result<Path<Uuid>, Problem>) -> Result<Uuid, Problem> {
    let missing = |_| Problem::not_found("There is no such organization.");
    path.map(|Path(id)| id).map_err(missing)
}

/// What a comparison comes to. That Stripe cannot be asked is an answer as well.
async fn compared(
    console: &Console,
    signed: &Signed,
    organization: Uuid,
) -> Result<Vec<Block>, Problem> {
    let subscriptions = &console.subscriptions;
    let compared = subscriptions
        .compare_for(&signed.operator, organization)
        .await;
    match compared.map_err(Problem::from) {
        Ok(compared) => Ok(blocks(&compared)),
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => Err(problem),
        Err(problem) => Ok(vec![notice(
            Tone::Warn,
            "Warning: not compared",
            problem.detail(),
        )]),
    }
}

fn blocks(compared: &Compared) -> Vec<Block> {
    let (tone, title) = match compared.verdict {
        Verdict::InSync => (Tone::Good, "In sync"),
        Verdict::Warning => (Tone::Warn, "Warning"),
        Verdict::Mismatch => (Tone::Bad, "Mismatch"),
    };
    let what = match compared.verdict {
        Verdict::InSync => "Everything is here as it is in Stripe.",
        Verdict::Warning => "What differs changes neither the plan nor what is charged.",
        Verdict::Mismatch => "The plan, or what is charged, is another one here than in Stripe.",
    };
    let text = format!(
        "{what} Compared at {} with {} subscriptions of Stripe's.",
        compared.compared_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        grouped(compared.subscriptions)
    );
    let rows: Vec<Vec<Cell>> = compared.differences.iter().flat_map(rows).collect();
    let grid = (!rows.is_empty()).then(|| {
        Block::Grid(Grid {
            title: "What differs".to_owned(),
            columns: vec!["Object", "Kind", "Field", "Ours, Stripe's", "What to do"],
            rows,
            ..Grid::default()
        })
    });
    [notice(tone, title, &text)]
        .into_iter()
        .chain(grid)
        .collect()
}

/// One for each field.
fn rows(difference: &Difference) -> Vec<Vec<Cell>> {
    let tone = match difference.is_mismatch {
        true => Tone::Bad,
        false => Tone::Warn,
    };
    let row = |field: Cell, values: Cell| {
        vec![
            Cell::text(&difference.id),
            Cell::Badge(tone, difference.kind.replace('_', " ")),
            field,
            values,
            Cell::Prose(difference.fix.to_owned()),
        ]
    };
    let fields = difference.fields.iter();
    let mut rows: Vec<Vec<Cell>> = fields
        .map(|one| row(Cell::text(&one.field), Cell::text(&one.values)))
        .collect();
    if rows.is_empty() {
        rows.push(row(Cell::None, Cell::None));
    }
    rows
}
