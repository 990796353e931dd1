//! Pushing a job's metrics to a Prometheus Pushgateway.

use jiff::Timestamp;

use super::runs::Counters;
use crate::http_client::{http_client, reason};

#[derive(Debug, thiserror::Error)]
#[error("PUSHGATEWAY_URL: is not an http:// or https:// URL")]
pub struct PushUrlError;

/// Why metrics were not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Without the URL, which may contain a password.
    #[error("the Pushgateway cannot be reached: {0}")]
    Unreachable(String),
    /// Also for redirects, which are not followed.
    #[error("the Pushgateway answers {0}; PUSHGATEWAY_URL must name it directly")]
    Refused(reqwest::StatusCode),
}

/// A Prometheus Pushgateway.
#[derive(Debug, Clone)]
pub struct PushGateway {
    base: reqwest::Url,
}

impl PushGateway {
    /// The gateway at a setting's URL; `None` if the setting is empty.
    pub fn given(url: Option<&str>) -> Result<Option<Self>, PushUrlError> {
        let url = url.map(str::trim).filter(|url| !url.is_empty());
        url.map(Self::parse).transpose()
    }

    fn parse(url: &str) -> Result<Self, PushUrlError> {
        let base = reqwest::Url::parse(url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        // The error does not repeat the URL: it may contain a password.
        base.map(|base| Self { base }).ok_or(PushUrlError)
    }

    /// Replaces the metrics of `job` at the gateway.
    pub async fn push(
        &self,
        job: &str,
        totals: &Counters,
        succeeded_at: Option<Timestamp>,
    ) -> Result<(), PushError> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["metrics", "job", job]);
        }
        // POST replaces by name: a failed run leaves the time of the last success.
        let unreachable = |error| PushError::Unreachable(reason(error));
        let client = http_client().map_err(unreachable)?;
        let request = client.post(url).body(render(totals, succeeded_at));
        let answer = request.send().await.map_err(unreachable)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(PushError::Refused(status)),
        }
    }
}

fn render(totals: &Counters, succeeded_at: Option<Timestamp>) -> String {
    let mut text = String::new();
    let mut last_name = "";
    for (series, total) in totals {
        let name = series.split('{').next().unwrap_or(series);
        if name != last_name {
            text.push_str(&format!("# TYPE {name} counter\n"));
            last_name = name;
        }
        text.push_str(&format!("{series} {total}\n"));
    }
    if let Some(time) = succeeded_at {
        text.push_str("# TYPE billing_job_last_success_timestamp_seconds gauge\n");
        text.push_str(&format!(
            "billing_job_last_success_timestamp_seconds {}\n",
            time.as_second()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_typed_once() {
        let totals = Counters::from([
            ("a_total{status=\"failed\"}".to_owned(), 1),
            ("a_total{status=\"processed\"}".to_owned(), 2),
        ]);
        assert_eq!(
            render(&totals, None),
            "# TYPE a_total counter\na_total{status=\"failed\"} 1\na_total{status=\"processed\"} 2\n"
        );
    }

    #[test]
    fn the_url_must_be_http() {
        assert!(PushGateway::parse("http://localhost:9091/").is_ok());
        assert!(PushGateway::parse("localhost:9091").is_err());
        assert!(PushGateway::parse("").is_err());
    }
}
