//! A part of the service that ends before it was told to.

use std::collections::HashSet;
use std::fs;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::support::TestDatabase;
use crate::support::TestService;
use crate::support::ports::reserved;
use crate::support::service::Options;
use crate::support::serving::{Serving, entries, serve_on};

#[tokio::test]
async fn a_part_that_panics_ends_a_running_service() {
    let mut service = TestService::start().await;
    let parts = service.service();
    parts
        .background
        .task("extra part", async { panic!("out of luck") });
    let ended = parts.failed().await;
    assert_eq!(ended.part, "extra part");
    assert_eq!(ended.reason, "panicked: out of luck");
    service.stop().await;
}

/// A part that is gone is missed, whichever it is.
#[tokio::test]
async fn each_part_that_ends_is_named() {
    let mut service = TestService::start().await;
    let names = service.service().background.names();
    service.stop().await;
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let mut service = TestService::on(service.db.clone(), Options::default()).await;
        let parts = service.service();
        assert!(parts.background.end(name), "{name}");
        let ended = parts.failed().await;
        assert_eq!(ended.part, name, "{}", ended.reason);
        drop(service);
    }
}

/// Such a part cannot be cut off. The process ends all the same.
#[tokio::test]
async fn a_part_that_blocks_its_thread_keeps_nobody() {
    let mut service = TestService::start().await;
    let parts = service.service();
    let (blocks, blocked) = tokio::sync::oneshot::channel();
    parts
        .background
        .thread("stubborn part", move || async move {
            let _ = blocks.send(());
            loop {
                std::thread::park();
            }
        });
    blocked.await.unwrap();
    assert!(parts.background.end("subscription settler"));
    assert_eq!(parts.failed().await.part, "subscription settler");
    service.abandon().await;
}

#[tokio::test]
async fn no_part_of_a_healthy_service_ends() {
    let mut service = TestService::start().await;
    let failed = service.service().failed();
    let ended = tokio::time::timeout(Duration::from_secs(3), failed).await;
    assert!(ended.is_err(), "{ended:?}");
    service.stop().await;
}

/// The inodes of the sockets that listen on `port`.
fn listening_on(port: u16) -> HashSet<String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (
            fields[1].to_owned(),
            fields[3].to_owned(),
            fields[9].to_owned(),
        )
    });
    rows.filter(|(local, state, _)| local.ends_with(&format!(":{port:04X}")) && state == "0A")
        .map(|(_, _, inode)| format!("socket:[{inode}]"))
        .collect()
}

/// A process's own listener. None: the system does not let us have it.
fn listener_of(pid: u32, port: u16) -> Option<OwnedFd> {
    let inodes = listening_on(port);
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let number = descriptors.flatten().find_map(|entry| {
        let leads_to = fs::read_link(entry.path()).ok()?;
        let is_it = inodes.contains(leads_to.to_str()?);
        is_it.then(|| entry.file_name().to_str()?.parse().ok())?
    });
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
    pidfd_getfd(
        process,
        number.expect("it listens"),
        PidfdGetfdFlags::empty(),
    )
    .ok()
}

async fn ends_when_its_listener_is_gone(variable: &str, part: &str) {
    let db = TestDatabase::new().await;
    let address = reserved();
    let mut command = serve_on(&db);
    command.env(variable, address.to_string());
    let serving = Serving::start(&mut command);
    let Some(listener) = listener_of(serving.pid(), address.port()) else {
        eprintln!("not run: this system does not let one process have another's socket");
        return;
    };
    TcpStream::from(listener).shutdown(Shutdown::Both).unwrap();
    let ran = serving.ended().await;
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let said = entries(&ran.stderr, "A part of the service ended");
    assert_eq!(said[0]["part"], part, "{}", ran.stderr);
    let last = format!(
        "error: the {part} ended before it was told to; the service cannot go on without it"
    );
    assert_eq!(ran.stderr.lines().last(), Some(&*last), "{}", ran.stderr);
}

#[tokio::test]
async fn a_metrics_listener_that_is_gone_ends_the_process() {
    ends_when_its_listener_is_gone("METRICS_ADDR", "metrics listener").await;
}

#[tokio::test]
async fn a_listener_that_is_gone_ends_the_process() {
    ends_when_its_listener_is_gone("LISTEN_ADDR", "HTTP server").await;
}

/// Twenty alerts, each of which would take ten seconds.
#[tokio::test]
async fn a_sender_whose_application_is_silent_does_not_keep_the_service() {
    let db = TestDatabase::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/alerts", silent.local_addr().unwrap());
    let organization = db.organization("cus_one").await;
    db.execute(&format!(
        "INSERT INTO usage_alerts (organization_id, metric, period_start, threshold, id, period_end,
                                   usage, quota, raised_at, next_attempt_at)
         SELECT '{organization}', 'api_calls', now() - n * interval '1 day', 80, gen_random_uuid(),
                now(), 80, 100, now(), now() FROM generate_series(1, 20) n"
    ))
    .await;
    let mut command = serve_on(&db);
    command.env("APPLICATION_WEBHOOK_URL", url).env(
        "APPLICATION_WEBHOOK_SECRET",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    );
    let serving = Serving::start(&mut command);
    // Taken, and never answered.
    let (_held, _) = silent.accept().unwrap();
    let ran = serving.terminated().await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let left = entries(
        &ran.stderr,
        "Some parts did not stop in time and are cut off",
    );
    assert!(left.is_empty(), "{}", ran.stderr);
}
