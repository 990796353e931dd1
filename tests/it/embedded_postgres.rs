//! The embedded cluster: made, shared, stopped, and found again after every kind of crash.

mod support;

use crate::support::program::program;
use embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresError};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Bystanders, DataDir, execute, value};
use valuecanvas_billing::app::EMBEDDED;

#[tokio::test]
async fn what_is_written_is_there_after_a_stop_and_a_start() {
    let data = DataDir::new();
    let first = data.start().await;
    execute(&first, "CREATE TABLE kept AS SELECT 42 AS answer").await;
    first.stop().await.expect("the server stops");
    assert!(data.running().await.is_none());

    let second = data.start().await;
    assert_eq!(value(&second, "SELECT answer::text FROM kept").await, "42");
}

#[tokio::test]
async fn the_server_is_private_and_durable() {
    let data = DataDir::new();
    let server = data.start().await;
    let settings = [
        ("listen_addresses", ""),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("max_connections", "200"),
    ];
    for (name, expected) in settings {
        let found = value(&server, &format!("SELECT current_setting('{name}')")).await;
        assert_eq!(found, expected, "{name}");
    }
    for directory in [
        server.endpoint().socket_directory(),
        server.endpoint().cluster(),
    ] {
        let mode = fs::metadata(directory)
            .expect("it exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    }
}

#[tokio::test]
async fn the_servers_environment_has_none_of_our_secrets() {
    let data = DataDir::new();
    let server = data.start().await;
    let Ok(environment) = fs::read(format!("/proc/{}/environ", data.postmaster())) else {
        return; // No /proc: this system does not show it either.
    };
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let names: Vec<&str> = environment
        .split('\0')
        .filter_map(|variable| variable.split('=').next())
        .filter(|name| !name.is_empty())
        .collect();
    let harmless = ["LC_ALL", "PATH", "LD_LIBRARY_PATH", "PG_GRANDPARENT_PID"];
    assert!(
        names.iter().all(|name| harmless.contains(name)),
        "{names:?}"
    );
    server.stop().await.expect("the server stops");
}

#[tokio::test]
async fn psql_takes_the_url_too() {
    let data = DataDir::new();
    let server = data.start().await;
    let output = Command::new(server.bin_dir().join("psql"))
        .args(["--no-psqlrc", "--tuples-only", "--no-align"])
        .args(["--command", "SELECT current_database()"])
        .arg(server.admin_url())
        .env("PGPORT", "1")
        .output()
        .expect("psql runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "valuecanvas_billing\n",
        "{output:?}"
    );
}

#[tokio::test]
async fn the_last_one_out_stops_the_server() {
    let data = DataDir::new();
    let first = data.start().await;
    let second = data.start().await;
    let postmaster = data.postmaster();

    first.stop().await.expect("the first leaves");
    let endpoint = data.running().await.expect("the second still uses it");
    assert_eq!(endpoint.admin_url(), second.admin_url());
    assert_eq!(value(&second, "SELECT 'here'").await, "here");
    assert_eq!(data.postmaster(), postmaster);

    second.stop().await.expect("the second stops it");
    assert!(data.running().await.is_none());
}

#[tokio::test]
async fn a_dropped_use_is_released_as_well() {
    let data = DataDir::new();
    drop(data.start().await);
    assert!(data.running().await.is_none());
}

#[tokio::test]
async fn users_come_and_go_without_ever_finding_it_stopping() {
    let data = DataDir::new();
    let visit = async || {
        for _ in 0..4 {
            let server = data.start().await;
            assert_eq!(value(&server, "SELECT 'here'").await, "here");
            server.stop().await.expect("leaving works");
        }
    };
    tokio::join!(visit(), visit(), visit());
    assert!(data.running().await.is_none());
}

#[tokio::test]
async fn processes_that_start_together_share_one_cluster() {
    let data = DataDir::new();
    let children: Vec<Child> = (0..5).map(|_| data.start_in_a_process("visit")).collect();
    for child in children {
        let output = child.wait_with_output().expect("the process ends");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(data.running().await.is_none());

    let server = data.start().await;
    let visits = value(&server, "SELECT count(*)::text FROM visits").await;
    assert_eq!(visits, "5");
    assert_eq!(data.names(), data.expected_names(&server));
}

#[tokio::test]
async fn a_killed_process_leaves_a_server_that_the_next_adopts() {
    let data = DataDir::new();
    let mut child = data.start_in_a_process("hold");
    data.until_visited().await;
    let postmaster = data.postmaster();
    child.kill().expect("it is killed with signal 9");
    child.wait().expect("it ended");
    assert!(data.running().await.is_some());

    let server = data.start().await;
    assert_eq!(data.postmaster(), postmaster);
    server.stop().await.expect("it is the last one out");
    assert!(data.running().await.is_none());
}

#[tokio::test]
async fn a_server_left_running_is_joined() {
    let data = DataDir::new();
    data.start().await.leave_running();
    assert!(data.running().await.is_some());
    let postmaster = data.postmaster();
    let server = data.start().await;
    assert_eq!(data.postmaster(), postmaster);
    drop(server);
}

#[tokio::test]
async fn commits_survive_the_death_of_the_server() {
    let data = DataDir::new();
    let server = data.start().await;
    execute(&server, "CREATE TABLE kept (answer text)").await;
    execute(&server, "INSERT INTO kept VALUES ('42')").await;
    kill_process(data.postmaster_pid(), Signal::KILL).expect("it is killed");

    server.ensure_running().await.expect("it recovers");
    assert_eq!(value(&server, "SELECT answer FROM kept").await, "42");

    kill_process(data.postmaster_pid(), Signal::KILL).expect("it is killed again");
    server.stop().await.expect("there is nothing to stop");
    let next = data.start().await;
    assert_eq!(value(&next, "SELECT answer FROM kept").await, "42");
}

#[tokio::test]
async fn a_stale_pid_file_may_name_anybody() {
    let data = DataDir::new();
    let server = data.start().await;
    execute(&server, "CREATE TABLE kept AS SELECT '42' AS answer").await;
    let owner = fs::metadata(data.postmaster_file()).expect("the server has a pid file");
    let postmaster = data.postmaster();
    server.leave_running();
    let mut bystanders = Bystanders::of_user(&owner);
    for bystander in bystanders.pids() {
        let running = fs::read_to_string(data.postmaster_file()).expect("the pid file is readable");
        kill_process(data.postmaster_pid(), Signal::KILL).expect("the server is killed");
        let (_, rest) = running.split_once('\n').expect("the file has lines");
        fs::write(data.postmaster_file(), format!("{bystander}\n{rest}")).expect("it is rewritten");
        data.until_gone().await;

        let server = data.start().await;
        assert_eq!(value(&server, "SELECT answer FROM kept").await, "42");
        assert_ne!(data.postmaster(), postmaster);
        server.leave_running();
    }
    data.start().await.stop().await.expect("it stops");
    bystanders.all_live();
}

#[tokio::test]
async fn what_a_crashed_attempt_left_is_removed() {
    let data = DataDir::new();
    let half_made = data.path().join("postgres.new-0123");
    fs::create_dir_all(half_made.join("base")).expect("a directory");
    fs::write(half_made.join("PG_VERSION"), "15\n").expect("a file");
    let server = data.start().await;
    assert_eq!(data.names(), data.expected_names(&server));
}

#[tokio::test]
async fn a_directory_that_is_no_cluster_is_left_alone() {
    let data = DataDir::new();
    let stranger = data.path().join("postgres/letters.txt");
    fs::create_dir(data.path().join("postgres")).expect("a directory");
    fs::write(&stranger, "dear").expect("a file");
    let refusal = data.refusal().await;
    assert!(
        matches!(refusal, EmbeddedPostgresError::NotACluster { .. }),
        "{refusal}"
    );
    assert_eq!(fs::read_to_string(&stranger).expect("it is there"), "dear");
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused() {
    let data = DataDir::new();
    let server = data.start().await;
    server.stop().await.expect("it stops");
    fs::write(data.path().join("postgres/PG_VERSION"), "9\n").expect("it is rewritten");

    let refusal = data.refusal().await.to_string();
    assert!(refusal.contains("was made by PostgreSQL 9"), "{refusal}");
    let installed = refusal.split("installed versions are: ").nth(1);
    let installed = installed.expect("the message names what is installed");
    assert!(
        installed.starts_with(|c: char| c.is_ascii_digit()),
        "{refusal}"
    );
    assert!(
        refusal.contains("apt-get install postgresql-9"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let data = DataDir::new();
    data.start().await.stop().await.expect("it stops");
    let setting = "shared_preload_libraries = 'no_such_library'\n";
    fs::write(data.path().join("postgres/postgresql.auto.conf"), setting).expect("it is rewritten");
    let refusal = data.refusal().await.to_string();
    assert!(refusal.contains("no_such_library"), "{refusal}");
    assert!(data.running().await.is_none());
}

#[tokio::test]
async fn a_long_path_has_its_socket_elsewhere() {
    let data = DataDir::below(&"very-long-name/".repeat(12));
    let server = data.start().await;
    assert_eq!(value(&server, "SELECT 'here'").await, "here");
    let socket_directory = server.endpoint().socket_directory().to_owned();
    assert!(!socket_directory.starts_with(data.path()));
    let endpoint = data.running().await.expect("it runs");
    assert_eq!(endpoint.socket_directory(), socket_directory);
    server.stop().await.expect("it stops");
    fs::remove_dir(&socket_directory).expect("the server left it empty");
}

#[tokio::test]
async fn a_socket_directory_of_somebody_else_is_refused() {
    if !geteuid().is_root() {
        return; // Only root can make a directory of somebody else's.
    }
    let data = DataDir::below(&"very-long-name/".repeat(12));
    let server = data.start().await;
    let socket_directory = server.endpoint().socket_directory().to_owned();
    server.stop().await.expect("it stops");
    std::os::unix::fs::chown(&socket_directory, Some(12345), None).expect("root may");
    let refusal = data.refusal().await;
    fs::remove_dir(&socket_directory).expect("it is empty");
    assert!(
        matches!(
            refusal,
            EmbeddedPostgresError::UnsafeSocketDirectory { owner: 12345, .. }
        ),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_cluster_of_somebody_else_is_refused() {
    if !geteuid().is_root() {
        return; // Only root can give a cluster away.
    }
    let data = DataDir::new();
    data.start().await.stop().await.expect("it stops");
    std::os::unix::fs::chown(data.path().join("postgres"), Some(0), None).expect("root may");
    let refusal = data.refusal().await;
    assert!(
        matches!(refusal, EmbeddedPostgresError::OtherOwner { owner: 0, .. }),
        "{refusal}"
    );
}

#[tokio::test]
async fn odd_characters_in_the_path_are_harmless() {
    let data = DataDir::below("it's \"odd\", $HOME `or` \\ 100% #1");
    let server = data.start().await;
    let socket_directory = server.endpoint().socket_directory().to_owned();
    assert_eq!(value(&server, "SELECT 'here'").await, "here");
    server.stop().await.expect("it stops");
    fs::remove_dir(socket_directory).expect("the server left it empty");
}

#[tokio::test]
async fn roots_cluster_is_elsewhere_when_the_servers_user_cannot_reach_it() {
    if !geteuid().is_root() {
        return; // Anybody else runs the server as themselves.
    }
    let closed = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).expect("its owner may");
    let data_dir = closed.path().join("data");
    let server = EmbeddedPostgres::start(EMBEDDED, &data_dir)
        .await
        .expect("it starts elsewhere");
    let base = server
        .endpoint()
        .cluster()
        .parent()
        .expect("a parent")
        .to_owned();
    assert!(base.starts_with("/var/lib/valuecanvas-billing"));
    let endpoint = EmbeddedPostgres::running(EMBEDDED, &data_dir).await;
    let endpoint = endpoint
        .expect("it can be asked for")
        .expect("it is found there");
    assert_eq!(endpoint.admin_url(), server.admin_url());
    server.stop().await.expect("it stops");
    fs::remove_dir_all(base).expect("root may");
}

#[tokio::test]
async fn a_command_that_is_interrupted_takes_its_server_along() {
    for signal in [Signal::INT, Signal::TERM] {
        let data = DataDir::new();
        let mut command = program(&["audit", "list", "--embedded"]);
        let running = command
            .env("DATA_DIR", data.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        // The server comes up, and the schema is not there yet.
        while !data.postmaster_file().exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kill_process(Pid::from_child(&running), signal).expect("it runs");
        let ended = running.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert!(data.running().await.is_none());
    }
}

#[tokio::test]
async fn asking_whether_it_runs_changes_nothing() {
    let data = DataDir::new();
    assert!(data.running().await.is_none());
    let absent = EmbeddedPostgres::running(EMBEDDED, &data.path().join("absent")).await;
    assert!(absent.expect("that is no error").is_none());
    assert!(data.names().is_empty());
}

/// Not a test: what the tests above run as a process of its own.
#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn another_process() {
    let data_dir = PathBuf::from(std::env::var_os("TEST_DATA_DIR").expect("TEST_DATA_DIR"));
    let behaviour = std::env::var("TEST_BEHAVIOUR").expect("TEST_BEHAVIOUR");
    let server = EmbeddedPostgres::start(EMBEDDED, &data_dir)
        .await
        .expect("it starts");
    // Without the lock, two that create the table at once get in each other's way.
    let visit = "DO $$ BEGIN
        PERFORM pg_advisory_xact_lock(1);
        CREATE TABLE IF NOT EXISTS visits (pid int);
        INSERT INTO visits VALUES (pg_backend_pid());
    END $$";
    execute(&server, visit).await;
    if behaviour == "hold" {
        std::future::pending::<()>().await;
    }
    server.stop().await.expect("it leaves");
}
