//! The audit: no named object is touched without a line, and a line says who, on what, from where, with what outcome.

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request};
use serde_json::{Value, json};
use verbatim_core::api_key::Scope;
use verbatim_core::ports::Directory;

use crate::support::keys::{Locked, with};
use crate::support::lines::Lines;
use crate::support::{bytes, form, get, post, wav};

/// Method, path and name in the audit of every operation that the OpenAPI document has.
fn operations() -> Vec<(Method, String, Option<String>)> {
    let document = serde_json::to_value(verbatim_api_lib::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let operations = item.as_object().unwrap().clone();
        let path = path.clone();
        operations.into_iter().filter(|(_, operation)| operation["operationId"].is_string()).map(
            move |(method, operation)| {
                let action = operation["x-audit-action"].as_str().map(str::to_owned);
                (method.to_uppercase().parse().unwrap(), path.clone(), action)
            },
        )
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn whoever_adds_a_route_to_an_object_names_what_it_does() {
    let operations = operations();
    assert!(operations.len() > 15, "the document has the routes");
    for (method, path, action) in operations {
        let parts = action.as_ref().and_then(|action| action.split_once('.'));
        let is_named = parts.is_some_and(|(object, act)| {
            [object, act]
                .iter()
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        });
        assert!(
            is_named || !path.contains('{'),
            "{method} {path} has no name for the audit: see `audited` in router.rs"
        );
        assert!(is_named || action.is_none(), "{action:?} of {method} {path} is no name for the audit");
    }
}

#[tokio::test]
async fn each_act_on_an_object_leaves_one_line_whoever_may_do_it() {
    let api = Locked::new();
    let keys = [(api.key("acme", Scope::Admin).await, true), (api.key("acme", Scope::Read).await, false)];
    for (method, path, action) in operations() {
        let Some(action) = action else { continue };
        for (key, is_admin) in &keys {
            let lines = Lines::captured();
            let named = ["{id}", "{name}", "{model}", "{tenant}"]
                .iter()
                .fold(path.clone(), |path, parameter| path.replace(parameter, "nothing"));
            let request = Request::builder().method(method.clone()).uri(&named).body(Body::empty()).unwrap();
            let status = api.world.json(with(request, key)).await.0;
            let acts = lines.acts();
            assert_eq!(acts.len(), 1, "{method} {named}: {acts:?}");
            let object = if path.contains('{') { "nothing" } else { "*" };
            assert_eq!((&acts[0]["action"], &acts[0]["object"]), (&json!(action), &json!(object)), "{named}");
            let outcome = acts[0]["outcome"].as_str().unwrap();
            assert_eq!(status < 300, outcome == "done", "{named}: {status} {outcome}");
            if path.starts_with("/v1/admin/") {
                assert_eq!(!is_admin, outcome == "forbidden", "{named}: {outcome}");
            }
        }
    }
}

#[tokio::test]
async fn who_read_or_deleted_a_job_from_where_is_written_down() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    let key_id = api.keys.list(None).await.unwrap()[0].key.id.to_string();
    let job = api.world.json(with(post("/v1/jobs", form(&[("file", &wav())])), &key)).await.1;
    let id = verbatim_core::ids::SubmissionId::parse(job["id"].as_str().unwrap()).unwrap();
    api.world.jobs.complete(&api.world.blobs, &id, &[" A word that nobody writes down."]);

    let lines = Lines::captured();
    let asked = async |method: Method, path: String| {
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        request.headers_mut().insert("x-request-id", HeaderValue::from_static("r-1"));
        bytes(api.world.call(with(request, &key)).await).await
    };
    asked(Method::GET, format!("/v1/jobs/{id}")).await;
    asked(Method::HEAD, format!("/v1/jobs/{id}")).await;
    let transcript = asked(Method::GET, format!("/v1/jobs/{id}/transcript")).await;
    asked(Method::GET, format!("/v1/jobs/{id}/events")).await;
    asked(Method::DELETE, format!("/v1/jobs/{id}")).await;
    asked(Method::GET, format!("/v1/jobs/{id}/transcript")).await;
    let line = |action: &str, outcome: &str| [action, id.as_str(), outcome].map(str::to_owned);
    let expected = [
        line("job.read", "done"),
        line("job.read", "done"),
        line("transcript.read", "done"),
        line("job.watch", "done"),
        line("job.delete", "done"),
        line("transcript.read", "not_found"),
    ];
    assert_eq!(lines.audit(), expected);
    for act in lines.acts() {
        assert_eq!(
            (&act["tenant"], &act["key.id"], &act["scopes"]),
            (&json!("acme"), &json!(key_id), &json!("jobs"))
        );
        assert_eq!(
            (&act["client"], &act["request.id"], &act["via"]),
            (&json!("0.0.0.0"), &json!("r-1"), &json!("api"))
        );
    }
    let log = lines.text();
    assert!(
        String::from_utf8_lossy(&transcript).contains("A word that nobody")
            && !log.contains("A word that nobody")
    );
    assert!(!log.contains(key.rsplit('_').next().unwrap()));
}

#[tokio::test]
async fn an_admin_key_looks_different_from_any_other() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    let lines = Lines::captured();
    let order = |body: Value| {
        let request = Request::post("/v1/admin/keys").header("content-type", "application/json");
        with(request.body(body.to_string().into()).unwrap(), &admin)
    };
    let made = api.world.json(order(json!({"tenant": "acme", "scopes": ["read", "admin"]}))).await.1;
    let id = made["id"].as_str().unwrap();
    assert_eq!(api.world.json(order(json!({"tenant": "acme", "scopes": ["root"]}))).await.0, 400);
    let revoke =
        |id: &str| with(Request::delete(format!("/v1/admin/keys/{id}")).body(Body::empty()).unwrap(), &admin);
    assert_eq!(api.world.call(revoke(id)).await.status(), 204);
    assert_eq!(api.world.json(with(get("/v1/admin/keys?tenant=acme"), &admin)).await.0, 200);
    let acts = lines.acts();
    for (act, action) in [(&acts[0], "key.create"), (&acts[2], "key.revoke")] {
        assert_eq!((&act["action"], &act["object"]), (&json!(action), &json!(id)));
        assert_eq!((&act["object.tenant"], &act["object.scopes"]), (&json!("acme"), &json!("read,admin")));
        assert_eq!((&act["tenant"], &act["scopes"]), (&json!("ops"), &json!("admin")));
    }
    assert_eq!((&acts[1]["object"], &acts[1]["outcome"]), (&json!("*"), &json!("invalid_option")));
    assert_eq!((&acts[3]["action"], &acts[3]["object.tenant"]), (&json!("key.list"), &json!("acme")));
}

#[tokio::test]
async fn a_key_that_is_put_in_a_path_stays_out_of_the_audit() {
    let api = Locked::new();
    let admin = api.key("ops", Scope::Admin).await;
    let lines = Lines::captured();
    let revoke = Request::delete(format!("/v1/admin/keys/{admin}")).body(Body::empty()).unwrap();
    assert_eq!(api.world.json(with(revoke, &admin)).await.0, 404);
    let long = Request::delete(format!("/v1/admin/keys/{}", "x".repeat(4000))).body(Body::empty()).unwrap();
    assert_eq!(api.world.json(with(long, &admin)).await.0, 404);
    let audit = lines.audit();
    assert_eq!((audit[0][1].as_str(), audit[1][1].len()), ("[hidden]", 128));
    assert!(!lines.text().contains(admin.rsplit('_').next().unwrap()));
}

#[tokio::test]
async fn an_act_whose_client_has_gone_leaves_a_line_too() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    let job = api.world.json(with(post("/v1/jobs", form(&[("file", &wav())])), &key)).await.1;
    let id = job["id"].as_str().unwrap();
    let lines = Lines::captured();
    tokio::select! {
        answer = api.world.call(with(get(&format!("/v1/jobs/{id}?wait=60")), &key)) => panic!("{answer:?}"),
        _ = api.world.jobs.watched() => {}
    }
    assert_eq!(lines.audit(), [["job.read", id, "unanswered"].map(str::to_owned)]);
}

#[tokio::test]
async fn who_is_not_let_in_is_counted_by_what_is_wrong_with_the_key() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Read).await;
    let closed = api.key("gone", Scope::Jobs).await;
    let records = api.keys.list(None).await.unwrap();
    assert!(api.keys.revoke(&records[1].key.id).await.unwrap());
    // The public half of a key that there is, with another secret.
    let guessed = format!("{}{}", &closed[..closed.len() - 43], "A".repeat(43));
    for (key, status) in [(guessed.as_str(), 401), ("nonsense", 401), (&closed, 401), (&key, 403)] {
        assert_eq!(api.world.json(with(get("/v1/admin/keys"), key)).await.0, status, "{key}");
    }
    assert_eq!(api.world.json(get("/v1/jobs")).await.0, 401);
    assert_eq!(api.world.json(with(get("/v1/jobs"), &key)).await.0, 200);
    let metrics = String::from_utf8(bytes(api.world.call(get("/metrics")).await).await.to_vec()).unwrap();
    for (reason, count) in [("no_key", 1), ("unknown_key", 2), ("closed_key", 1), ("scope_missing", 1)] {
        let line = format!("verbatim_access_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn a_key_that_a_client_puts_elsewhere_stays_out_of_the_log() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    let lines = Lines::captured();
    let names = [
        "x-request-id",
        "user-agent",
        "traceparent",
        "tracestate",
        "idempotency-key",
        "last-event-id",
        "referer",
    ];
    for name in names {
        for mut request in
            [get("/v1/jobs/nothing"), get(&format!("/{key}")), post("/v1/jobs", form(&[("file", &wav())]))]
        {
            request.headers_mut().insert(name, HeaderValue::from_str(&key).unwrap());
            let answer = api.world.call(with(request, &key)).await;
            assert!(
                answer.headers()["x-request-id"].to_str().unwrap().starts_with("req_")
                    || name != "x-request-id"
            );
        }
    }
    for field in ["model", "language", "engine", "metadata", "callback", "response_format"] {
        for path in ["/v1/jobs", "/v1/audio/transcriptions"] {
            let request = post(path, form(&[(field, key.as_bytes()), ("model", b"none"), ("file", &wav())]));
            api.world.call(with(request, &key)).await;
        }
    }
    api.world.call(with(get(&format!("/v1/jobs?status={key}&cursor={key}")), &key)).await;
    api.world.call(with(get(&format!("/v1/models/{key}")), &key)).await;
    assert!(!lines.text().contains(key.rsplit('_').next().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn no_transcript_leaves_without_a_line_that_names_its_job() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    let upload = |path: &str, more: &[(&str, &[u8])]| {
        let file = wav();
        let fields: Vec<_> = more.iter().copied().chain([("file", file.as_slice())]).collect();
        with(post(path, form(&fields)), &key)
    };
    let lines = Lines::captured();
    let newest = |lines: &Lines| lines.audit().pop().unwrap();
    // Fresh: the answer comes when the work is done.
    let (answer, id) = tokio::join!(api.world.json(upload("/v1/audio/transcriptions", &[])), async {
        let id = api.world.jobs.watched().await;
        api.world.jobs.complete(&api.world.blobs, &id, &[" Hi."]);
        id
    });
    assert_eq!(answer.0, 200);
    assert_eq!(newest(&lines), ["transcript.create", id.as_str(), "done"]);
    // As a stream, whose line comes with its head.
    let stream = api.world.call(upload("/v1/audio/transcriptions", &[("stream", b"true")])).await;
    let line = newest(&lines);
    assert_eq!((&*line[0], &*line[2]), ("transcript.create", "done"));
    assert!(line[1].starts_with("job_") && line[1] != id.as_str(), "{line:?}");
    drop(stream);
    // The native route names the job that it made, too.
    let (status, job) = api.world.json(upload("/v1/jobs", &[])).await;
    assert_eq!(status, 202);
    assert_eq!(newest(&lines), ["job.create", job["id"].as_str().unwrap(), "done"]);
    // What is refused has no job.
    api.world.call(upload("/v1/jobs", &[("model", b"none")])).await;
    assert_eq!(&newest(&lines)[..2], ["job.create", "*"]);
    assert_eq!(lines.audit().len(), 4);
}
