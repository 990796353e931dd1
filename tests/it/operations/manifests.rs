//! The Kubernetes manifests: valid, alike in their overlays, and as the guide
//! names things.

use std::path::PathBuf;
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(below)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(path.strip_prefix(root()).unwrap().to_str().unwrap()));
        } else if path.extension().is_some_and(|e| e == "yaml")
            && path
                .file_name()
                .is_some_and(|name| name != "kustomization.yaml")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_manifest_is_valid() {
    let manifests = files("k8s");
    assert!(manifests.len() >= 10, "{manifests:?}");
    let validate = root().join("target/foreign-python/bin/kubernetes-validate");
    let checked = Command::new(validate)
        .arg("--strict")
        .args(&manifests)
        .output()
        .expect("kubernetes-validate is installed: run scripts/setup test");
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

#[test]
fn a_kustomization_names_every_file_beside_it() {
    for folder in ["k8s/base", "k8s/cronjobs"] {
        let text = std::fs::read_to_string(root().join(folder).join("kustomization.yaml")).unwrap();
        for file in files(folder) {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(&format!("- {name}\n")), "{folder}: {name}");
        }
    }
    for overlay in ["staging", "production"] {
        let folder = root().join("k8s/overlays").join(overlay);
        let text = std::fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
        assert!(text.contains(&format!("namespace: {overlay}\n")));
        let plans = folder.join("plans.toml");
        valuecanvas_billing::catalogue::Catalogue::load(Some(&plans)).unwrap();
    }
}

#[test]
fn the_guides_commands_find_what_they_name() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let deployment = read("k8s/base/deployment.yaml");
    assert!(deployment.contains("name: valuecanvas-api\n") && deployment.contains("replicas: 3\n"));
    let retry = read("k8s/cronjobs/webhook-retry.yaml");
    for wanted in [
        "name: webhook-retry\n",
        "schedule: \"*/5 * * * *\"",
        "concurrencyPolicy: Forbid",
        "memory: \"128Mi\"",
    ] {
        assert!(retry.contains(wanted), "{wanted}");
    }
    let cleanup = read("k8s/cronjobs/grace-period-cleanup.yaml");
    assert!(cleanup.contains("schedule: \"0 3 * * *\"") && cleanup.contains("--older-than-days"));
    // `kubectl apply -n staging` would refuse a file that says another namespace.
    for file in files("k8s") {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("\n  namespace: "), "{}", file.display());
    }
}

#[test]
fn every_container_is_confined() {
    for file in files("k8s") {
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.contains("image: ") {
            continue;
        }
        for wanted in [
            "runAsNonRoot: true",
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "drop: [\"ALL\"]",
            "type: RuntimeDefault",
            "automountServiceAccountToken: false",
        ] {
            assert!(text.contains(wanted), "{}: {wanted}", file.display());
        }
        // A secret is referred to, and never written down.
        assert!(
            !text.contains("sk_") && !text.contains("whsec_"),
            "{}",
            file.display()
        );
    }
}
