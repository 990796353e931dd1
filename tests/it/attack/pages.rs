//! Pages: of those who have signed in and of those who have not, their forms, their files, and
//! what is guessed to get there.

use std::sync::Arc;

use reqwest::RequestBuilder;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::BrowserSession;

use super::hands::{Attack, connect_narrow, crowd, requests};
use super::world::World;

const STRANGERS: &str = "who has no session is led to sign in, and takes nobody's connection";
const GUESSED: &str = "codes and sessions are looked up together, on connections of their own";
const APART: &str = "logins have connections and threads of their own";
const SHARED: &str = "an operator has a share of the connections that all use, and so has each \
                      organization's pages";

pub const ATTACKS: &[Attack] = &[
    Attack::new("pages without a session", STRANGERS, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let paths = [
                    "/",
                    "/console",
                    "/console/webhooks?type=invoice.paid",
                    "/portal",
                    "/portal/plans",
                    "/portal/sign-in",
                    "/console/sign-in",
                    "/console/sign-in/code",
                ];
                let request = world.get(paths[number % paths.len()]);
                request.header("accept", "text/html")
            })
            .await;
        })
    }),
    Attack::new("sessions that are none", GUESSED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let (path, cookie) = match number % 2 {
                    0 => ("/portal", format!("portal=vcb_{}", digits())),
                    _ => ("/console", format!("console=vcs_{}", digits())),
                };
                world.get(path).header("cookie", cookie)
            })
            .await;
        })
    }),
    Attack::new("links that open nothing", GUESSED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, _| {
                world.get(&format!("/portal/enter?code=vcl_{}", digits()))
            })
            .await;
        })
    }),
    Attack::new("forms to sign in", APART, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let (path, before) = match number % 2 {
                    0 => ("/portal/sign-in", "portal-sign-in"),
                    _ => ("/console/sign-in", "console-form"),
                };
                let email = format!("somebody{}@example.com", number % 7);
                let fields = [("email", &*email), ("password", "wrong one")];
                strangers_form(world, path, before, "", &fields)
            })
            .await;
        })
    }),
    Attack::new("codes of a second factor", APART, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let code = format!("{:06}", number % 1_000_000);
                let sealed = format!("; console-step={}", "A".repeat(40 + number % 2_000));
                let path = "/console/sign-in/code";
                strangers_form(world, path, "console-form", &sealed, &[("code", &*code)])
            })
            .await;
        })
    }),
    Attack::new("the operators' pages", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let paths = [
                    "/console",
                    "/console/webhooks",
                    "/console/dead-letters",
                    "/console/organizations?query=a",
                    "/console/audit-log",
                    "/console/events-out",
                    "/console/figures",
                    "/console/plans",
                    "/console/operators",
                ];
                let organization = format!("/console/organizations/{}", world.tenant.organization);
                let path = paths.get(number % (paths.len() + 1));
                of_operator(world, path.unwrap_or(&&*organization))
            })
            .await;
        })
    }),
    Attack {
        before: Some(|world| Box::pin(long_journal(world))),
        ..Attack::new("files that are read slowly", SHARED, |world| {
            Box::pin(files(world))
        })
    },
    Attack::new("chains to be verified", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections / 2, |world, _| {
                let organization = world.tenant.organization.to_string();
                let token = &world.others.operator;
                let path = format!(
                    "/console/audit-log/verification?once={}",
                    Uuid::new_v4().simple()
                );
                let form = [
                    ("csrf", &*form_token(token)),
                    ("do", "verify"),
                    ("org", &*organization),
                ];
                let request = world.post(&path).form(&form);
                request.header("cookie", format!("console={token}"))
            })
            .await;
        })
    }),
    Attack::new("customers' pages", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let paths = [
                    "/portal",
                    "/portal/plans",
                    "/portal/invoices",
                    "/portal/payment-methods",
                    "/portal/activity",
                    "/portal/none",
                ];
                let request = world.get(paths[number % paths.len()]);
                request.header("cookie", format!("portal={}", world.tenant.token(number)))
            })
            .await;
        })
    }),
    Attack::new("customers' forms", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let token = world.tenant.token(number);
                let key = Uuid::new_v4().simple();
                let paths = [
                    "/portal/plans/preview".to_owned(),
                    format!("/portal/plans/change?once={key}"),
                    format!("/portal/cancel?once={key}"),
                ];
                let fields = [
                    ("csrf", &*form_token(token)),
                    ("plan", "enterprise"),
                    ("planTier", "enterprise"),
                    ("interval", "month"),
                ];
                let request = world.post(&paths[number % paths.len()]).form(&fields);
                request.header("cookie", format!("portal={token}"))
            })
            .await;
        })
    }),
];

/// What follows the prefix of a credential.
fn digits() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn form_token(token: &str) -> String {
    BrowserSession::new(token.to_owned()).form_token()
}

/// A form of a browser that has kept the cookie `before` of the form's page, and perhaps
/// more.
fn strangers_form(
    world: &World,
    path: &str,
    before: &str,
    cookies: &str,
    fields: &[(&str, &str)],
) -> RequestBuilder {
    let kept = digits();
    let csrf = form_token(&kept);
    let mut form = vec![("csrf", &*csrf)];
    form.extend(fields);
    let request = world.post(path).form(&form);
    request.header("cookie", format!("{before}={kept}{cookies}"))
}

fn of_operator(world: &World, path: &str) -> RequestBuilder {
    let cookie = format!("console={}", world.others.operator);
    world.get(path).header("cookie", cookie)
}

/// Years of movements of revenue, and customers.
async fn long_journal(world: Arc<World>) {
    let organization = world.tenant.organization;
    let entries = 20 * world.sizes.connections;
    world
        .db
        .execute(&format!(
            "SELECT log_billing_action('{organization}', 'hostile', 'system', NULL, 'none', n::text,
                                       NULL, jsonb_build_object('note', repeat('x', 200)))
               FROM generate_series(1, {entries}) n"
        ))
        .await;
}

/// Hundreds of files, a byte each now and then.
async fn files(world: Arc<World>) {
    const FILES: [&str; 4] = [
        "/console/figures/months.csv",
        "/console/figures/movements.csv",
        "/console/figures/customers.csv?standing=paying",
        "/api/operator/figures/customers?standing=free",
    ];
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let token = &world.others.operator;
            let path = FILES[number % FILES.len()];
            let credential = match path.starts_with("/console") {
                true => format!("cookie: console={token}"),
                false => format!("authorization: Bearer {token}"),
            };
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: billing\r\naccept: text/csv\r\n{credential}\r\n\r\n"
            );
            let Ok(mut stream) = connect_narrow(&world).await else {
                return;
            };
            let _ = stream.write_all(request.as_bytes()).await;
            let mut byte = [0];
            while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        },
    )
    .await;
}

#[test]
fn a_strangers_form_is_bound_to_its_cookie() {
    let kept = digits();
    assert_eq!(kept.len(), 64);
    let session = BrowserSession::new(kept.clone());
    assert!(session.made(&form_token(&kept)), "{}", json!(kept));
}
