//! What operators do: dead letters, keys, providers, and the audit of all of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::keys::{Locked, with};
use crate::support::lines::Lines;
use crate::support::shared::{Books, Values};
use crate::support::{World, bytes, form, get, post, wav};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use verbatim_api_lib::{CostTerms, ProviderParts};
use verbatim_core::ErrorKind;
use verbatim_core::api_key::Scope;
use verbatim_core::audio::{AudioFormat, AudioInfo};
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::ids::{JobId, SubmissionId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::jobs::DeadLetter;
use verbatim_core::provider::{ProviderFacts, announce};
use verbatim_core::time::Timestamp;

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

fn json_request(path: &str, body: &Value) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json; charset=utf-8");
    request.body(body.to_string().into()).unwrap()
}

fn dead_letter(number: u32, tenant: &str) -> DeadLetter {
    DeadLetter {
        job_id: JobId::from_ulid(&format!("{number:026}")).unwrap(),
        tenant: TenantId::parse(tenant).unwrap(),
        submissions: vec![SubmissionId::from_ulid(&format!("{number:026}")).unwrap()],
        failure: JobFailure::new(FailureKind::BadAudio, "no sound in it"),
        attempts: 5,
        crashes: 0,
        created_at: Timestamp::from_millis(0),
        failed_at: Timestamp::from_millis(1_000),
        expires_at: Timestamp::from_millis(2_000),
        options: TranscribeOptions::for_model("tiny.en"),
        audio: AudioInfo {
            sha256: "00".into(),
            bytes: 7,
            format: AudioFormat::Wav,
            duration_ms: Some(1_500),
            findings: Default::default(),
        },
    }
}

/// The API with dead letters of two tenants, the latest failure first.
fn with_dead_letters() -> (World, Vec<String>) {
    let world = World::new();
    let letters = [dead_letter(3, "acme"), dead_letter(2, "other"), dead_letter(1, "acme")];
    let ids = letters.iter().map(|letter| letter.job_id.to_string()).collect();
    *world.jobs.dead.lock().unwrap() = letters.into();
    (world, ids)
}

#[tokio::test]
async fn dead_letters_are_listed_page_by_page_and_by_tenant() {
    let (world, ids) = with_dead_letters();
    let (_, first) = world.json(get("/v1/admin/dead-letters?limit=2")).await;
    assert_eq!([&first["data"][0]["id"], &first["data"][1]["id"]], [&ids[0], &ids[1]]);
    assert_eq!((&first["has_more"], &first["next_cursor"]), (&json!(true), &json!(ids[1])));
    let (_, second) = world.json(get(&format!("/v1/admin/dead-letters?limit=2&cursor={}", ids[1]))).await;
    assert_eq!((second["data"].as_array().unwrap().len(), &second["has_more"]), (1, &json!(false)));
    let letter = &second["data"][0];
    assert_eq!(letter["error"], json!({"code": "bad_audio", "message": "no sound in it"}));
    assert_eq!((&letter["attempts"], &letter["audio"]["duration_secs"]), (&json!(5), &json!(1.5)));

    let (_, others) = world.json(get("/v1/admin/dead-letters?tenant=other")).await;
    assert_eq!((others["data"].as_array().unwrap().len(), &others["data"][0]["id"]), (1, &json!(ids[1])));
    for query in ["tenant=not%20one", "cursor=job_1", "limit=0"] {
        let (status, problem) = world.json(get(&format!("/v1/admin/dead-letters?{query}"))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_parameter")), "{query}");
    }
}

#[tokio::test]
async fn a_page_of_a_rare_tenants_dead_letters_may_be_empty_and_says_where_to_go_on() {
    let (world, ids) = with_dead_letters();
    *world.jobs.look_at.lock().unwrap() = Some(1);
    let (mut cursor, mut found) = (String::new(), Vec::new());
    for round in 0..4 {
        let (_, page) =
            world.json(get(&format!("/v1/admin/dead-letters?tenant=other&cursor={cursor}"))).await;
        found.extend(page["data"].as_array().unwrap().iter().map(|letter| letter["id"].clone()));
        assert_eq!(page["has_more"], json!(page["next_cursor"].is_string()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
        assert!(round < 3, "the search does not come to an end");
    }
    assert_eq!(found, [json!(ids[1])]);
}

#[tokio::test]
async fn a_dead_letter_is_redriven_once_and_written_down_each_time() {
    let lines = Lines::captured();
    let (world, ids) = with_dead_letters();
    let redrive = || request("POST", &format!("/v1/admin/dead-letters/{}/redrive", ids[0]));
    *world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Conflict);
    let (status, problem) = world.json(redrive()).await;
    assert_eq!((status, &problem["detail"]), (409, &json!("the same work is under way")));
    *world.jobs.refuse.lock().unwrap() = None;
    let (status, redriven) = world.json(redrive()).await;
    assert_eq!((status, redriven), (202, json!({"id": ids[0], "status": "queued"})));
    assert_eq!(world.json(redrive()).await.0, 404);
    let written = |outcome: &str| ["dead_letter.redrive", &ids[0], outcome].map(str::to_owned);
    assert_eq!(lines.audit(), [written("conflict"), written("done"), written("not_found")]);
}

#[tokio::test]
async fn a_dead_letter_is_discarded_once_and_the_others_stay() {
    let lines = Lines::captured();
    let (world, ids) = with_dead_letters();
    let discard = |id: &str| request("DELETE", &format!("/v1/admin/dead-letters/{id}"));
    assert_eq!(world.call(discard(&ids[1])).await.status(), 204);
    assert_eq!(world.json(discard(&ids[1])).await.0, 404);
    assert_eq!(world.json(discard("work_1")).await.0, 404, "what is no id names nothing");
    let (_, left) = world.json(get("/v1/admin/dead-letters")).await;
    assert_eq!([&left["data"][0]["id"], &left["data"][1]["id"]], [&ids[0], &ids[2]]);
    let line = |action: &str, object: &str, outcome: &str| [action, object, outcome].map(str::to_owned);
    let discard = |object: &str, outcome: &str| line("dead_letter.discard", object, outcome);
    let expected = [
        discard(&ids[1], "done"),
        discard(&ids[1], "not_found"),
        discard("work_1", "not_found"),
        line("dead_letter.list", "*", "done"),
    ];
    assert_eq!(lines.audit(), expected);
}

#[tokio::test]
async fn a_key_is_made_shown_once_used_and_revoked() {
    let lines = Lines::captured();
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    let order = json!({
        "tenant": "acme", "name": "build server", "scopes": ["jobs", "read"], "max_priority": "normal",
        "max_queued": 9, "expires_in_days": 30,
    });
    let response = api.world.call(with(json_request("/v1/admin/keys", &order), &admin)).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["cache-control"]),
        (201, &"no-store".parse().unwrap())
    );
    let made: Value = serde_json::from_slice(&crate::support::bytes(response).await).unwrap();
    let (id, secret) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(
        (&made["tenant"], &made["scopes"], &made["status"]),
        (&json!("acme"), &json!(["jobs", "read"]), &json!("open"))
    );
    assert_eq!((&made["max_queued"], &made["max_running"]), (&json!(9), &Value::Null));
    assert_eq!(made["expires_at"], "2026-01-31T12:00:00.000Z");
    assert_eq!(api.world.json(with(get("/v1/jobs"), secret)).await.0, 200);

    let (_, list) = api.world.json(with(get("/v1/admin/keys?tenant=acme"), &admin)).await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["id"]), (1, &json!(id)));
    assert_eq!(list["data"][0].get("key"), None);

    let revoke = |id: &str| with(request("DELETE", &format!("/v1/admin/keys/{id}")), &admin);
    assert_eq!(api.world.call(revoke(id)).await.status(), 204);
    assert_eq!(api.world.call(revoke(id)).await.status(), 204, "revoking again changes nothing");
    assert_eq!(api.world.json(with(get("/v1/jobs"), secret)).await.0, 401);
    let (_, list) = api.world.json(with(get("/v1/admin/keys"), &admin)).await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][1]["status"]), (2, &json!("revoked")));
    assert_eq!(api.world.json(revoke("key_ZZZZZZZZZZZZZZZZZZZZZZZZZZ")).await.0, 404);

    let audit = lines.audit();
    let line = |action: &str, object: &str, outcome: &str| [action, object, outcome].map(str::to_owned);
    let expected = [
        line("key.create", id, "done"),
        line("key.list", "*", "done"),
        line("key.revoke", id, "done"),
        line("key.revoke", id, "done"),
        line("key.list", "*", "done"),
        line("key.revoke", "key_ZZZZZZZZZZZZZZZZZZZZZZZZZZ", "not_found"),
    ];
    assert_eq!(audit, expected);
    // Neither half of what opens the door is in any line, at any level.
    for key in [secret, &admin] {
        assert!(!lines.text().contains(key.rsplit('_').next().unwrap()));
    }
}

#[tokio::test]
async fn an_order_for_a_key_that_makes_no_sense_says_which_field() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    let many = "x".repeat(101);
    for (field, value) in [
        ("tenant", json!("not one")),
        ("name", json!(many)),
        ("scopes", json!(["root"])),
        ("scopes", json!([])),
        ("max_priority", json!("highest")),
        ("max_running", json!(0)),
        ("max_queued", json!(0)),
        ("expires_in_days", json!(0)),
        ("expires_in_days", json!(36_501)),
    ] {
        let mut order = json!({"tenant": "acme"});
        order[field] = value;
        let (status, problem) = api.world.json(with(json_request("/v1/admin/keys", &order), &admin)).await;
        assert_eq!((status, &problem["param"]), (400, &json!(field)), "{problem}");
    }
    let order = |body: &Value| with(json_request("/v1/admin/keys", body), &admin);
    let (status, problem) = api.world.json(order(&json!({"tenant": "acme", "colour": "red"}))).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_json")));
    let huge = json!({"tenant": "acme", "name": "x".repeat(20_000)});
    assert_eq!(api.world.json(order(&huge)).await.0, 413);
    let form = with(Request::post("/v1/admin/keys").body("tenant=acme".into()).unwrap(), &admin);
    assert_eq!(api.world.json(form).await.0, 415);
    assert_eq!(api.keys.records.lock().unwrap().len(), 1, "only the operator's own");
}

#[tokio::test]
async fn a_key_cannot_revoke_itself() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    let id = api.keys.records.lock().unwrap()[0].key.id.to_string();
    let revoke = with(request("DELETE", &format!("/v1/admin/keys/{id}")), &admin);
    let (status, problem) = api.world.json(revoke).await;
    assert_eq!((status, &problem["code"]), (409, &json!("own_key")));
    assert_eq!(api.world.json(with(get("/v1/admin/keys"), &admin)).await.0, 200);
}

#[tokio::test]
async fn where_keys_are_off_there_are_none_to_look_after() {
    let world = World::new();
    for request in [get("/v1/admin/keys"), json_request("/v1/admin/keys", &json!({"tenant": "acme"}))] {
        let (status, problem) = world.json(request).await;
        assert_eq!((status, &problem["code"]), (409, &json!("keys_off")));
    }
}

fn facts() -> ProviderFacts {
    ProviderFacts {
        kind: "azure".into(),
        local: false,
        priority: 1,
        weight: 2,
        max_concurrency: 20,
        requests_per_minute: Some(600),
        price_per_hour: Money::parse(0.36),
        daily_budget: None,
    }
}

#[tokio::test]
async fn a_provider_is_paused_and_resumed_by_name() {
    let lines = Lines::captured();
    let values = Arc::new(Values::default());
    announce(values.as_ref(), "azure-west", &facts()).await.unwrap();
    let parts = ProviderParts {
        shared: values.clone(),
        ledger: Arc::new(Books::default()),
        terms: CostTerms::default(),
    };
    let world = World::with(|all| all.providers = Some(parts));
    let act = |name: &str, act: &str| request("POST", &format!("/v1/admin/providers/{name}/{act}"));

    let (_, list) = world.json(get("/v1/admin/providers")).await;
    let azure = &list["data"][0];
    assert_eq!(
        (&azure["name"], &azure["kind"], &azure["health"]),
        (&json!("azure-west"), &json!("azure"), &json!("available"))
    );
    assert_eq!((&azure["requests_per_minute"], &azure["price_per_audio_hour"]), (&json!(600), &json!(0.36)));

    for _ in 0..2 {
        let (status, paused) = world.json(act("azure-west", "pause")).await;
        assert_eq!((status, &paused["health"]), (200, &json!("paused")));
    }
    assert_eq!(world.json(get("/v1/admin/providers")).await.1["data"][0]["health"], "paused");
    assert_eq!(world.json(act("azure-west", "resume")).await.1["health"], "available");
    assert_eq!(world.json(act("no%0Asuch", "pause")).await.0, 404);
    values.down.store(true, Ordering::Relaxed);
    let (status, problem) = world.json(act("azure-west", "pause")).await;
    assert_eq!(status, 503);
    assert!(!problem.to_string().contains("secret"));

    let line = |action: &str, subject: &str, outcome: &str| [action, subject, outcome].map(str::to_owned);
    let expected = [
        line("provider.pause", "azure-west", "done"),
        line("provider.pause", "azure-west", "done"),
        line("provider.resume", "azure-west", "done"),
        line("provider.pause", "no\\nsuch", "not_found"),
        line("provider.pause", "azure-west", "unavailable"),
    ];
    assert_eq!(lines.audit(), expected);
}

#[tokio::test]
async fn only_operators_do_what_operators_do() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    for request in [
        get("/v1/admin/providers"),
        request("POST", "/v1/admin/providers/azure/pause"),
        get("/v1/admin/keys"),
        json_request("/v1/admin/keys", &json!({"tenant": "acme", "scopes": ["admin"]})),
        request("DELETE", "/v1/admin/keys/key_00000000000000000000000000"),
        request("DELETE", "/v1/admin/dead-letters/work_00000000000000000000000000"),
    ] {
        let path = request.uri().to_string();
        assert_eq!(api.world.json(with(request, &key)).await.0, 403, "{path}");
    }
    assert_eq!(api.keys.records.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn while_the_only_provider_is_paused_nobody_is_kept_waiting_for_it() {
    let values = Arc::new(Values::default());
    announce(values.as_ref(), "here", &ProviderFacts { kind: "whisper".into(), ..facts() }).await.unwrap();
    let parts = ProviderParts {
        shared: values.clone(),
        ledger: Arc::new(Books::default()),
        terms: CostTerms::default(),
    };
    let world = World::with(|all| all.providers = Some(parts));
    let act = |act: &str| request("POST", &format!("/v1/admin/providers/here/{act}"));
    assert_eq!(world.json(get("/readyz")).await.0, 200);
    assert_eq!(world.json(act("pause")).await.0, 200);
    // Its workers may be too busy to have noticed.
    let ask = || post("/v1/audio/transcriptions", form(&[("file", &wav())]));
    let refused = world.call(ask()).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    let problem = String::from_utf8(bytes(refused).await.to_vec()).unwrap();
    assert!(problem.contains("paused"), "{problem}");
    assert_eq!(world.jobs.cancelled.load(Ordering::Relaxed), 1, "the work that nobody waits for any more");
    let ready = world.call(get("/readyz")).await;
    assert_eq!((ready.status().as_u16(), ready.headers().contains_key("retry-after")), (503, true));
    let other = ProviderFacts { kind: "whisper".into(), ..facts() };
    announce(values.as_ref(), "there", &other).await.unwrap();
    assert_eq!(world.json(get("/readyz")).await.0, 200, "there is another one");
}
