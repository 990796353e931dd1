//! `sandbox`: the stand-in alone.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::program::program;

#[tokio::test]
async fn it_prints_where_it_listens_and_answers_like_stripe() {
    let mut sandbox = program(&["sandbox", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(sandbox.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line
        .split_whitespace()
        .last()
        .expect("the line ends with the address")
        .to_owned();

    let client = valuecanvas_billing::http_client::direct_client().unwrap();
    let created = client
        .post(format!("{url}/v1/customers"))
        .basic_auth("sk_test_x", None::<&str>)
        .body("name=Ada")
        .header("content-type", "application/x-www-form-urlencoded")
        .send()
        .await;
    let refused = client.get(format!("{url}/v1/customers")).send().await;
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();

    let customer: Value = created.unwrap().json().await.unwrap();
    assert_eq!(
        (customer["object"].as_str(), customer["name"].as_str()),
        (Some("customer"), Some("Ada"))
    );
    assert_eq!(refused.unwrap().status(), 401);
}
