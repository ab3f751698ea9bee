//! What operators and their tools ask.

use anyhow::{Context, Result, ensure};

use super::{Service, new_speech};

#[tokio::test]
async fn health_readiness_and_documentation_answer() -> Result<()> {
    let service = Service::reach().await?;
    ensure!(service.client.get("/healthz").await? == serde_json::json!({"status": "ok"}));
    let ready = service.client.get("/readyz").await?;
    let checks = ready["checks"].as_array().context("checks")?;
    ensure!(checks.len() == 4 && checks.iter().all(|check| check["ok"] == true), "{ready}");
    let page = service.get("/docs/").await?;
    ensure!(page.headers()["x-content-type-options"] == "nosniff");
    ensure!(page.text().await?.contains("swagger-ui"));
    Ok(())
}

#[tokio::test]
async fn the_served_document_is_the_committed_one() -> Result<()> {
    let service = Service::reach().await?;
    let committed = std::fs::read(crate::support::repository().join("openapi.json"))?;
    let committed: serde_json::Value = serde_json::from_slice(&committed)?;
    ensure!(service.client.get("/openapi.json").await? == committed);
    Ok(())
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_never_by_path() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.client.accepted(new_speech(1)?, &[]).await?;
    service.client.ended(&job).await?;
    let metrics = service.client.metrics().await?;
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    let route = r#"verbatim_http_requests_total{method="GET",route="/v1/jobs/{id}",status="200"}"#;
    ensure!(count(route) >= 1.0, "{metrics:?}");
    ensure!(count(r#"verbatim_submissions_total{outcome="new"}"#) >= 1.0, "{metrics:?}");
    ensure!(count("verbatim_upload_bytes_total") >= 300_000.0, "{metrics:?}");
    ensure!(metrics.contains_key(r#"verbatim_queue_depth{tier="normal"}"#), "{metrics:?}");
    ensure!(!metrics.keys().any(|name| name.contains(&job)), "an id in a label");
    Ok(())
}
