//! A service behind the enforcement layer. Run it with
//! `BILLING_URL=http://127.0.0.1:8080 BILLING_API_KEY=vck_… cargo run -p
//! plan-enforcement --example service`.
//!
//! It prints its address. Each `GET /` uses one unit of `api_calls`.

use axum::Router;
use axum::routing::get;
use plan_enforcement::{Enforcement, PlanEnforcement};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is installed already")?;
    let billing = std::env::var("BILLING_URL").map_err(|_| "set BILLING_URL")?;
    let key = std::env::var("BILLING_API_KEY").map_err(|_| "set BILLING_API_KEY")?;
    let enforcement = Enforcement::new(&billing, "api_calls")?;
    // A service with several organizations would look up the key of the
    // organization that sent the request.
    let layer = PlanEnforcement::new(enforcement, move |_: &http::request::Parts| {
        Some(key.clone())
    });
    let app = Router::new()
        .route("/", get(async || "served\n"))
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
