//! The package's own tests, and the package as others install it.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::package::{built, succeed};

/// Queues, attempts, the state, webhooks and handlers, against servers that misbehave.
#[tokio::test]
async fn the_packages_own_tests_pass() {
    let mut tests = Command::new("node");
    tests.current_dir(built().await);
    tests.args(["--test", "--test-reporter=tap", "test/"]);
    succeed(&mut tests).await;
}

const CONSUMER: &str = r#"
import { Billing, createBillingHandler, requiresAction, verifyWebhook, type Decision, type OrganizationState } from "@valuecanvas/billing";
import { closeAtExit, fileStorage, nodeListener } from "@valuecanvas/billing/node";

const billing = new Billing({ url: "http://127.0.0.1:1", key: "vcp_1", storage: fileStorage("usage.log") });
closeAtExit(billing);
nodeListener(createBillingHandler(billing, { authorize: () => ({ organization: "acme" }) }));

export async function use(request: Request): Promise<string> {
  const acme = billing.organization("acme");
  const decision: Decision = await acme.check("api_calls", 1, { consume: true });
  const state: OrganizationState = await acme.state();
  const feature: string | number | boolean | undefined = state.features["sso"];
  const changed = await acme.changePlan({ planTier: "standard", when: "now" });
  const url: string | null = requiresAction(changed) ? changed.nextAction.hostedInvoiceUrl : changed.planTier;
  const event = await verifyWebhook(await request.text(), request.headers, "whsec_x");
  if (event.type === "plan.changed") return event.data.plan.tier;
  if (event.type === "organization.state_changed") return String(event.data.stateVersion);
  // @ts-expect-error: there is no such type.
  if (event.type === "plan.vanished") return "";
  // @ts-expect-error: there is no such interval.
  await acme.preview({ planTier: "standard", interval: "fortnight" });
  return `${decision.allowed} ${feature} ${url}`;
}
"#;

const PAGE: &str = r#"
import { BillingProvider, GraceBanner, PlanPicker, UsageMeter, useBilling, usePreview } from "@valuecanvas/billing/react";

function Bill() {
  const { state, feature } = useBilling();
  const { preview } = usePreview({ planTier: "standard" });
  const due: number | undefined = preview?.dueNowAmountMinor;
  return <p>{state?.plan.tier} {String(feature("sso"))} {due}</p>;
}

export const page = (
  <BillingProvider>
    <Bill />
    <GraceBanner labels={{ api_calls: "calls" }} />
    <UsageMeter metric="api_calls" label="Calls" />
    <PlanPicker onChoose={({ previewToken }) => console.log(previewToken)} />
  </BillingProvider>
);
"#;

const OPTIONS: &str = r#"{"compilerOptions": {
  "strict": true, "target": "ES2022", "module": "NodeNext", "jsx": "react-jsx", "noEmit": true,
  "lib": ["ES2022", "DOM"], "types": ["node"], "exactOptionalPropertyTypes": true
}}"#;

/// The types of others, which a project has beside the package.
fn lend(from: &Path, to: &Path) {
    for name in ["@types", "react", "undici-types", "csstype"] {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            std::os::unix::fs::symlink(from, to).unwrap();
        }
    }
}

/// From its archive, in a project that has nothing else.
#[tokio::test]
async fn the_packed_package_installs_imports_and_has_types() {
    let package = built().await;
    let project = tempfile::tempdir().unwrap();
    let mut pack = Command::new("npm");
    pack.current_dir(&package).args(["pack", "--json"]);
    let pack = pack.arg("--pack-destination").arg(project.path());
    let packed: serde_json::Value = serde_json::from_str(&succeed(pack).await).unwrap();
    let files: Vec<&str> = packed[0]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    let foreign = |file: &&&str| !(file.starts_with("dist/") || ["README.md", "package.json"].contains(file));
    assert_eq!(files.iter().filter(foreign).count(), 0, "{files:?}");
    let archive = packed[0]["filename"].as_str().unwrap();
    fs::write(
        project.path().join("package.json"),
        r#"{"private": true, "type": "module"}"#,
    )
    .unwrap();
    let mut install = Command::new("npm");
    install.current_dir(project.path()).args([
        "install",
        "--offline",
        "--no-audit",
        "--no-fund",
        "--legacy-peer-deps",
    ]);
    succeed(install.arg(project.path().join(archive))).await;
    let installed = fs::read_dir(project.path().join("node_modules")).unwrap();
    let installed: Vec<String> = installed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(installed, ["@valuecanvas"], "it brings nothing along");

    let mut import = Command::new("node");
    import.current_dir(project.path()).args([
        "--input-type=module",
        "-e",
        "const all = [await import('@valuecanvas/billing'), await import('@valuecanvas/billing/node')]; \
         console.log(all.map((one) => Object.keys(one).join(' ')).join(' '))",
    ]);
    let names = succeed(&mut import).await;
    for name in ["Billing", "createBillingHandler", "verifyWebhook", "fileStorage"] {
        assert!(names.split_whitespace().any(|one| one == name), "{names}");
    }

    let modules = package.join("node_modules");
    lend(&modules, &project.path().join("node_modules"));
    fs::write(project.path().join("use.ts"), CONSUMER).unwrap();
    fs::write(project.path().join("page.tsx"), PAGE).unwrap();
    fs::write(project.path().join("tsconfig.json"), OPTIONS).unwrap();
    let mut compile = Command::new("node");
    compile.arg(modules.join("typescript/bin/tsc"));
    succeed(compile.arg("-p").arg(project.path())).await;
}

/// Nothing in the core is Node's: it runs where there are web APIs only.
#[tokio::test]
async fn the_core_bundles_for_where_there_is_no_node() {
    let package = built().await;
    let mut bundle = Command::new("node");
    bundle.current_dir(&package);
    bundle.arg("node_modules/esbuild/bin/esbuild");
    bundle.args(["dist/index.js", "--bundle", "--format=esm", "--platform=neutral"]);
    let text = succeed(bundle.args(["--minify", "--log-level=error"])).await;
    for foreign in ["node:", "require(", "process.", "Buffer."] {
        assert!(!text.contains(foreign), "{foreign} is in the bundle");
    }
    assert!(text.len() < 40_000, "{} bytes", text.len());
}
