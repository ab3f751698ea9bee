//! Tenants and their caps: what an admin sets is in force at once, whichever key is used.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use verbatim_core::ErrorKind;
use verbatim_core::api_key::Scope;
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::Directory;

use crate::support::keys::{Locked, with};
use crate::support::{World, form, get, post, wav};

fn put(name: &str, body: &Value) -> Request<Body> {
    let request =
        Request::put(format!("/v1/admin/tenants/{name}")).header("content-type", "application/json");
    request.body(body.to_string().into()).unwrap()
}

/// What the job store was told to apply for this tenant.
fn in_force(api: &Locked, name: &str) -> TenantCaps {
    let in_force = api.world.jobs.in_force.lock().unwrap();
    in_force.get(&TenantId::parse(name).unwrap()).copied().unwrap_or_default()
}

fn caps(max_running: Option<u64>, max_queued: Option<u64>) -> TenantCaps {
    TenantCaps { max_running, max_queued }
}

#[tokio::test]
async fn a_cap_that_an_admin_sets_is_in_force_at_once_and_shown_with_who_sets_it() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    api.key("acme", Scope::Jobs).await;
    let key = api.keys.list(None).await.unwrap()[1].key.id.to_string();
    let asked = async |request| api.world.json(with(request, &admin)).await;

    let (status, acme) = asked(put("acme", &json!({"max_running": 1}))).await;
    assert_eq!(status, 200, "{acme}");
    assert_eq!((&acme["max_running"], &acme["max_queued"]), (&json!(1), &Value::Null));
    let stricter = json!({
        "max_running": {"limit": 1, "set_by": ["tenant"]},
        "max_queued": {"limit": 7, "set_by": [key]},
    });
    assert_eq!(acme["in_force"], stricter);
    assert_eq!((&acme["keys"][0]["id"], &acme["keys"][0]["max_running"]), (&json!(key), &json!(2)));
    assert_eq!(in_force(&api, "acme"), caps(Some(1), Some(7)));
    assert_eq!(in_force(&api, "ops"), caps(Some(2), Some(7)), "other tenants have theirs");

    // In the place of what was there.
    let (_, acme) = asked(put("acme", &json!({"max_queued": 9}))).await;
    assert_eq!((&acme["max_running"], &acme["max_queued"]), (&Value::Null, &json!(9)));
    assert_eq!(in_force(&api, "acme"), caps(Some(2), Some(7)));
    assert_eq!(asked(get("/v1/admin/tenants/acme")).await.1, acme);

    let revoke = Request::delete(format!("/v1/admin/keys/{key}")).body(Body::empty()).unwrap();
    assert_eq!(api.world.call(with(revoke, &admin)).await.status(), 204);
    assert_eq!(in_force(&api, "acme"), caps(None, Some(9)), "a revoked key caps nothing");
    assert_eq!(asked(get("/v1/admin/tenants/acme")).await.1["keys"], json!([]));
    let order = json!({"tenant": "acme", "max_running": 4}).to_string();
    let order = Request::post("/v1/admin/keys").header("content-type", "application/json").body(order.into());
    assert_eq!(asked(order.unwrap()).await.0, 201);
    assert_eq!(in_force(&api, "acme"), caps(Some(4), Some(9)), "a new key's caps hold for the whole tenant");
}

#[tokio::test]
async fn what_is_no_cap_or_no_tenant_is_refused_and_changes_nothing() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    api.key("acme", Scope::Jobs).await;
    let asked = async |request| api.world.json(with(request, &admin)).await;
    for (body, status, code, param) in [
        (json!({"max_running": 0}), 400, "invalid_option", json!("max_running")),
        (json!({"max_queued": 0}), 400, "invalid_option", json!("max_queued")),
        (json!({"max_runing": 1}), 400, "invalid_json", Value::Null),
        (json!({"max_running": "two"}), 400, "invalid_json", Value::Null),
    ] {
        let (answered, problem) = asked(put("acme", &body)).await;
        assert_eq!((answered, &problem["code"], &problem["param"]), (status, &json!(code), &param), "{body}");
    }
    for nobody in ["nobody", "no%20name", "x%2Fy"] {
        for request in [put(nobody, &json!({"max_running": 1})), get(&format!("/v1/admin/tenants/{nobody}"))]
        {
            let (status, problem) = asked(request).await;
            assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{nobody}");
        }
    }
    assert!(api.keys.caps().await.unwrap().is_empty());
    assert_eq!(World::new().json(put("default", &json!({}))).await.1["code"], "keys_off");

    // What is kept and not in force is said to be neither.
    *api.world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    assert_eq!(asked(put("acme", &json!({"max_running": 1}))).await.0, 503);
}

#[tokio::test]
async fn tenants_are_listed_in_pages_by_name() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    for name in ["c", "a", "b", "a"] {
        api.key(name, Scope::Jobs).await;
    }
    api.keys.cap(&TenantId::parse("z").unwrap(), caps(Some(3), None)).await.unwrap();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/admin/tenants?limit=2&cursor={cursor}");
        let (status, page) = api.world.json(with(get(&path), &admin)).await;
        assert_eq!(status, 200, "{page}");
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2);
        seen.extend(data.iter().map(|tenant| tenant["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
        assert_eq!(page["has_more"], true);
    }
    assert_eq!(seen, ["a", "b", "c", "ops", "z"]);
    let bad = api.world.json(with(get("/v1/admin/tenants?cursor=%20"), &admin)).await;
    assert_eq!((bad.0, &bad.1["param"]), (400, &json!("cursor")));
}

/// By hand in the database, by a node of an earlier version, by the clock.
#[tokio::test(start_paused = true)]
async fn what_changes_beside_the_node_is_in_force_within_a_second() {
    let api = Locked::new();
    api.key("acme", Scope::Jobs).await;
    let keeper = tokio::spawn({
        let state = api.world.state.clone();
        async move { state.run().await }
    });
    let within_a_second = async || tokio::time::sleep(std::time::Duration::from_millis(1_001)).await;
    within_a_second().await;
    assert_eq!(in_force(&api, "acme"), caps(Some(2), Some(7)));
    let acme = TenantId::parse("acme").unwrap();
    api.keys.cap(&acme, caps(Some(1), None)).await.unwrap();
    within_a_second().await;
    assert_eq!(in_force(&api, "acme"), caps(Some(1), Some(7)));

    // While the job store is away nothing is lost.
    *api.world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let id = api.keys.list(None).await.unwrap()[0].key.id.clone();
    api.keys.revoke(&id).await.unwrap();
    within_a_second().await;
    assert_eq!(in_force(&api, "acme"), caps(Some(1), Some(7)));
    *api.world.jobs.refuse.lock().unwrap() = None;
    within_a_second().await;
    assert_eq!(in_force(&api, "acme"), caps(Some(1), None));
    let metrics = crate::support::bytes(api.world.call(get("/metrics")).await).await;
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains("verbatim_tenants_at_cap{cap=\"running\"} 1"), "{metrics}");
    api.world.state.shutdown.cancel();
    keeper.await.unwrap();
}

#[tokio::test]
async fn a_tenant_sees_its_own_figures_and_the_caps_that_hold_for_it() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Read).await;
    let (admin, other) = (api.key("ops", Scope::Admin).await, api.key("other", Scope::Jobs).await);
    let upload = || post("/v1/jobs", form(&[("file", &wav())]));
    assert_eq!(api.world.json(with(upload(), &other)).await.0, 202);
    assert_eq!(api.world.json(with(put("acme", &json!({"max_running": 1})), &admin)).await.0, 200);
    let (status, stats) = api.world.json(with(get("/v1/stats"), &key)).await;
    assert_eq!((status, &stats["object"], &stats["tenant"]), (200, &json!("tenant_stats"), &json!("acme")));
    let expected = json!({"queued": 0, "running": 0, "submissions": 0, "max_running": 1, "max_queued": 7});
    assert_eq!(stats["jobs"], expected);
    for hidden in ["queue", "workers", "node", "limits", "providers", "cost"] {
        assert!(stats.get(hidden).is_none(), "{hidden}");
    }
    let (_, stats) = api.world.json(with(get("/v1/stats"), &other)).await;
    assert_eq!((&stats["jobs"]["queued"], &stats["jobs"]["submissions"]), (&json!(1), &json!(1)));
    assert_eq!(api.world.json(with(get("/v1/stats"), &admin)).await.1["object"], "stats");
    *api.world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let (status, stats) = api.world.json(with(get("/v1/stats"), &key)).await;
    assert_eq!((status, &stats["jobs"], &stats["missing"]), (200, &Value::Null, &json!(["jobs"])));
}
