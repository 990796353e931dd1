//! The image: what the Dockerfile puts into it is all that the program needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_valuecanvas-billing");

fn dockerfile() -> String {
    std::fs::read_to_string(format!("{ROOT}/Dockerfile")).unwrap()
}

/// The libraries that the program as it is built here needs; the image's is
/// linked statically.
fn libraries() -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let paths = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// A tree with what the image has, and those libraries.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |from: &Path, to: &Path| {
        let to = root.path().join(to.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    put(
        Path::new(PROGRAM),
        Path::new("/usr/local/bin/valuecanvas-billing"),
    );
    put(
        &Path::new(ROOT).join("config/plans.toml"),
        Path::new("/etc/valuecanvas-billing/plans.toml"),
    );
    for library in libraries() {
        put(&library, &library);
    }
    // The user of the image is somebody else than who made the tree.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// Runs the program in the tree as the image would: as nobody's user, with the
/// image's variables.
fn in_image(tree: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("chroot");
        command.arg("--userspec=65532:65532");
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    command
        .arg(tree)
        .arg("/usr/local/bin/valuecanvas-billing")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("PLANS_FILE", "/etc/valuecanvas-billing/plans.toml")
        .env("LOG_FORMAT", "json")
        .envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn the_program_needs_nothing_but_the_c_library() {
    for library in libraries() {
        let name = library.file_name().unwrap().to_string_lossy().into_owned();
        let of_libc = [
            "libc.",
            "libm.",
            "libgcc_s.",
            "libdl.",
            "libpthread.",
            "librt.",
            "ld-linux",
        ];
        assert!(
            of_libc.iter().any(|known| name.starts_with(known)),
            "{name}: a static image would lack it"
        );
    }
}

#[test]
fn the_images_tree_is_all_that_it_runs_on() {
    let text = dockerfile();
    for said in [
        "/image/usr/local/bin",
        "config/plans.toml /image/etc/valuecanvas-billing/",
        "PLANS_FILE=/etc/valuecanvas-billing/plans.toml",
        "USER 65532:65532",
        "ENTRYPOINT [\"/usr/local/bin/valuecanvas-billing\"]",
    ] {
        assert!(text.contains(said), "{said}");
    }
    let tree = tree();
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = in_image(tree.path(), arguments, variables);
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (status, said) = run(&["--version"], &[]);
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = run(&["openapi"], &[]);
    assert_eq!(status, Some(0), "{said}");
    // Name resolution, TLS and the catalogue work without anything else, and
    // what is not there is said.
    let away = [
        ("STRIPE_WEBHOOK_SECRET", "whsec_image"),
        (
            "DATABASE_URL",
            "postgresql://u:p@localhost:1/db?sslmode=require",
        ),
    ];
    let (status, said) = run(&["serve"], &away);
    assert_eq!(status, Some(3), "{said}");
}
