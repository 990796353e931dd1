//! Encryption, logins, and templates of the operator's own.

use std::path::Path;
use std::process::Command;

use super::server::{ACTION, MailServer, of_invoice, organization, sending, switched_on, until};
use crate::support::TestDatabase;
use crate::support::events::sign;
use crate::support::program::{program, program_on, run, run_beside};
use crate::support::service::WEBHOOKS;
use crate::support::serving::{Serving, serve_on};

/// A certificate for localhost, which is its own authority.
fn certificate(folder: &Path) -> [std::path::PathBuf; 2] {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let config = folder.join("openssl.cnf");
    // What is an authority by its own word is nobody's certificate.
    let text = "[req]\ndistinguished_name = name\nx509_extensions = more\nprompt = no\n\
                [name]\nCN = localhost\n\
                [more]\nbasicConstraints = critical, CA:FALSE\n\
                subjectAltName = DNS:localhost\n";
    std::fs::write(&config, text).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-config"])
        .arg(&config)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    [certificate, key]
}

#[tokio::test]
async fn by_starttls_the_password_of_a_file_logs_in() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = certificate(folder.path());
    let server = MailServer::at("127.0.0.1", 0, &[&certificate, &key]);
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let db = TestDatabase::new().await;
    organization(&db, "cus_a", "pay@example.com").await;
    let with = |command: &mut Command| {
        let url = format!("smtp://me@localhost:{}?tls=starttls", server.port);
        command
            .env("SMTP_URL", url)
            .env("SMTP_PASSWORD_FILE", &password)
            .env("MAIL_FROM", "billing@acme.example");
    };
    let mut serve = serve_on(&db);
    with(&mut serve);
    let serving = Serving::start(serve.env("SSL_CERT_FILE", &certificate));
    switched_on(&db).await;
    let event = of_invoice(ACTION, "in_a", "cus_a").to_string();
    let delivered = valuecanvas_billing::http_client::direct_client()
        .unwrap()
        .post(format!("{}{WEBHOOKS}", serving.base))
        .header("Stripe-Signature", sign(event.as_bytes()))
        .body(event)
        .send()
        .await
        .unwrap();
    assert_eq!(delivered.status(), 200);
    let mail = server.count(1).await.remove(0);
    assert_eq!(
        (&mail["encrypted"], &mail["user"]),
        (&true.into(), &"me".into())
    );
    until(&db, "mails WHERE status = 'sent'", 1).await;

    let verdict = async |mut doctor: Command| {
        with(&mut doctor);
        let checks = run_beside(doctor).await.json();
        let mut checks = checks.as_array().unwrap().iter();
        checks
            .find(|check| check["name"] == "mail server")
            .unwrap()
            .clone()
    };
    let doctor = || program_on(&db, &["doctor", "--json"]);
    let mut trusting = doctor();
    trusting.env("SSL_CERT_FILE", &certificate);
    assert_eq!(verdict(trusting).await["verdict"], "ok");
    // Nobody vouches for it.
    let found = verdict(doctor()).await;
    assert_eq!(found["verdict"], "failed", "{found}");
    std::fs::write(&password, "wrong").unwrap();
    let mut refused = doctor();
    refused.env("SSL_CERT_FILE", &certificate);
    let found = verdict(refused).await;
    assert_eq!(found["verdict"], "failed", "{found}");
    assert!(found["detail"].as_str().unwrap().contains("535"), "{found}");
}

#[tokio::test]
async fn a_template_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let own = "Subject: Bitte bestätigen: {{ invoice.amount }}\n\nFür {{ organization.name }}.\n";
    std::fs::write(folder.path().join("action_required.txt"), own).unwrap();
    let server = MailServer::start();
    let mut config = server.config();
    config.templates_dir = Some(folder.path().to_owned());
    let service = sending(config).await;
    organization(&service.db, "cus_a", "pay@example.com").await;
    service.deliver(&of_invoice(ACTION, "in_a", "cus_a")).await;
    let mail = server.count(1).await.remove(0);
    assert_eq!(mail["headers"]["subject"], "Bitte bestätigen: 99.00 USD");
    assert_eq!(mail["text"], "Für Organization of cus_a.\n");
    let html = mail["html"].as_str().unwrap();
    assert!(html.contains("Confirm the payment"), "{html}");
}

#[test]
fn a_broken_template_refuses_the_start_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("trial_ending.html");
    std::fs::write(&broken, "<p>\n{{ trial.end }}\n").unwrap();
    let mut command = program(&["serve"]);
    command
        .env(
            "DATABASE_URL",
            "postgresql://billing_service@127.0.0.1:1/billing",
        )
        .env("STRIPE_WEBHOOK_SECRET", "whsec_x")
        .env("SMTP_URL", "smtp://127.0.0.1:1")
        .env("MAIL_FROM", "billing@acme.example")
        .env("MAIL_TEMPLATES_DIR", folder.path());
    let ran = run(&mut command);
    let expected = format!("error: MAIL_TEMPLATES_DIR: {}:2: ", broken.display());
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with(&expected), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}
