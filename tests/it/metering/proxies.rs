//! Who asks first: a real nginx, and the tower layer.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use plan_enforcement::{Enforcement, PlanEnforcement};
use tower::{Layer as _, ServiceExt as _};
use valuecanvas_billing::catalogue::OverLimit;

use super::tenant::{Answer, Tenant};
use crate::support::TestService;
use crate::support::ports::reserved;

/// nginx in front of a page, which asks billing first.
struct Nginx {
    child: Child,
    base: String,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn before(service: &TestService, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, upstream) = (reserved(), reserved());
        // As docs/usage.md has it.
        let config = include_str!("../../../docs/examples/nginx.conf")
            .replace(
                "127.0.0.1:8080",
                service.base.strip_prefix("http://").unwrap(),
            )
            .replace("127.0.0.1:9000", &upstream.to_string())
            .replace("listen 8000", &format!("listen {address}"))
            .replace("vck_…", key);
        let main = format!(
            "daemon off; pid {0}/pid; error_log stderr; worker_processes 1;\n\
             events {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
             uwsgi_temp_path {0}; scgi_temp_path {0};\n\
             server {{ listen {upstream}; return 200 served; }}\n{config}\n}}\n",
            folder.path().display()
        );
        let path = folder.path().join("nginx.conf");
        std::fs::File::create(&path)
            .unwrap()
            .write_all(main.as_bytes())
            .unwrap();
        let program = [
            "/usr/sbin/nginx",
            "/usr/local/bin/nginx",
            "/opt/homebrew/bin/nginx",
        ]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("nginx is installed: run scripts/setup test");
        let child = Command::new(program)
            .arg("-c")
            .arg(&path)
            .arg("-p")
            .arg(folder.path())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            base: format!("http://{address}"),
            _folder: folder,
        };
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return nginx;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nginx does not listen");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn nginx_asks_and_obeys() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Behind nginx").await;
    let nginx = Nginx::before(&service, &tenant.key).await;
    let call = || async {
        let url = format!("{}/tools/run", nginx.base);
        Answer::of(service.client.get(url).send().await.unwrap()).await
    };
    let served = call().await;
    assert_eq!((served.status, served.header("x-quota-usage")), (200, "1"));
    assert_eq!(served.header("x-quota-remaining"), "999");
    tenant.set_quota(&service, "api_calls", "1", None).await;
    let warned = call().await;
    assert_eq!(
        (warned.status, warned.header("x-quota-warning")),
        (200, "true")
    );
    assert!(!warned.header("x-grace-period-expires").is_empty());
    tenant
        .set_quota(&service, "api_calls", "1", Some(OverLimit::Hard))
        .await;
    let refused = call().await;
    assert_eq!(
        (refused.status, refused.header("x-quota-limit")),
        (402, "1")
    );
}

#[tokio::test]
async fn behind_nginx_a_client_does_not_say_what_its_call_costs() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Behind nginx").await;
    tenant
        .set_quota(&service, "api_calls", "2", Some(OverLimit::Hard))
        .await;
    let nginx = Nginx::before(&service, &tenant.key).await;
    let call = async |headers: &[(&'static str, &str)]| {
        let url = format!("{}/tools/run?amount=0&consume=false", nginx.base);
        let mut request = service.client.post(url).body("{}");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    };
    let cheap = [
        ("x-quota-amount", "0"),
        ("x-quota-metric", "llm_tokens"),
        ("idempotency-key", "always"),
        ("x-organization", "another"),
        ("authorization", "Bearer of the client"),
    ];
    for (status, usage) in [(200, "1"), (200, "2"), (402, "2"), (402, "2")] {
        let answer = call(&cheap).await;
        assert_eq!(
            (answer.status, answer.header("x-quota-usage")),
            (status, usage)
        );
        assert_eq!(answer.header("x-request-id").len(), 32);
    }
    let dear = call(&[("x-quota-amount", "1000000")]).await;
    assert_eq!((dear.status, dear.header("x-quota-usage")), (402, "2"));
    assert_eq!(tenant.total(&service, "api_calls").await, "2");
}

#[tokio::test]
async fn the_tower_layer_asks_and_obeys() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Behind tower").await;
    let call = |enforcement: Enforcement, key: Option<String>| async move {
        let layer = PlanEnforcement::new(enforcement, move |_: &axum::http::request::Parts| {
            key.clone()
        });
        let inner = tower::service_fn(async |_: Request<Body>| {
            Ok::<_, std::convert::Infallible>(axum::http::Response::new(Body::from("served")))
        });
        let request = Request::new(Body::empty());
        layer.layer(inner).oneshot(request).await.unwrap()
    };
    let asking = |base: &str| Enforcement::new(base, "api_calls").unwrap().amount("2");
    let served = call(asking(&service.base), Some(tenant.key.clone())).await;
    assert_eq!(served.status(), StatusCode::OK);
    assert_eq!(served.headers()["x-quota-usage"], "2");
    tenant
        .set_quota(&service, "api_calls", "3", Some(OverLimit::Hard))
        .await;
    let refused = call(asking(&service.base), Some(tenant.key.clone())).await;
    assert_eq!(refused.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    let unknown = call(asking(&service.base), None).await;
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
    let nobody = "http://127.0.0.1:9";
    let closed = call(asking(nobody), Some(tenant.key.clone())).await;
    assert_eq!(closed.status(), StatusCode::SERVICE_UNAVAILABLE);
    let open = call(asking(nobody).fail_open(), Some(tenant.key.clone())).await;
    assert_eq!(open.status(), StatusCode::OK);
    assert!(Enforcement::new("ftp://host", "api_calls").is_err());
}
