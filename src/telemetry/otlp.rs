//! Traces by OTLP over HTTP, configured by OpenTelemetry's own variables:
//! OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT), …_HEADERS, OTEL_SERVICE_NAME.
//! Without an endpoint nothing is exported.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::trace_context::TraceParent;
use super::{InvalidSetting, Processed};

const SERVICE: &str = "valuecanvas-billing";
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that exports spans; `None` without an endpoint.
pub fn layer<S>() -> Result<Option<impl Layer<S>>, InvalidSetting>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let named = |name: &str| std::env::var(name).is_ok_and(|text| !text.trim().is_empty());
    if !ENDPOINTS.iter().any(|name| named(name)) {
        return Ok(None);
    }
    // Only the first call installs it; later ones fail, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder().with_http().build();
    let exporter = exporter.map_err(|error| InvalidSetting {
        variable: ENDPOINTS[0],
        problem: error.to_string(),
    })?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(SERVICE);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        // Details of a request are in the log, under its id.
        .with_filter(LevelFilter::INFO);
    let _ = PROVIDER.set(provider);
    Ok(Some(layer))
}

pub fn flush() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown()
    {
        tracing::warn!(%error, "the last traces could not be exported");
    }
}

/// The context of a `traceparent` header.
fn remote(trace: &TraceParent) -> Option<Context> {
    let flags = if trace.is_sampled() {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    let span = SpanContext::new(
        TraceId::from_hex(trace.trace_id()).ok()?,
        SpanId::from_hex(trace.span_id()).ok()?,
        flags,
        true,
        TraceState::default(),
    );
    Some(Context::new().with_remote_span_context(span))
}

pub fn follow(span: &Span, headers: &HeaderMap) {
    if PROVIDER.get().is_none() {
        return;
    }
    if let Some(context) = TraceParent::of(headers).and_then(|trace| remote(&trace)) {
        // Fails only where nothing is exported.
        let _ = span.set_parent(context);
    }
}

/// The current span, for work that continues its trace.
pub fn current() -> Option<TraceParent> {
    PROVIDER.get()?;
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return None;
    }
    let flags = span.trace_flags().to_u8();
    TraceParent::parse(&format!(
        "00-{}-{}-{flags:02x}",
        span.trace_id(),
        span.span_id()
    ))
}

pub fn processed(trace: &TraceParent, event: Processed<'_>) {
    let (Some(provider), Some(parent)) = (PROVIDER.get(), remote(trace)) else {
        return;
    };
    let ended = SystemTime::now();
    let builder = SpanBuilder::from_name("process event")
        .with_kind(SpanKind::Consumer)
        .with_start_time(ended.checked_sub(event.took).unwrap_or(ended))
        .with_attributes([
            KeyValue::new("stripe.event.id", event.event_id.to_owned()),
            KeyValue::new("stripe.event.type", event.event_type.to_owned()),
        ]);
    let tracer = provider.tracer(SERVICE);
    let mut span = tracer.build_with_context(builder, &parent);
    if !event.succeeded {
        span.set_status(Status::error("the attempt failed"));
    }
    span.end_with_timestamp(ended);
}
