//! Connections when all are in use: who gives way, and what is never cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use verbatim_api_lib::{ServeGauges, ServeOptions, serve};
use verbatim_core::CancellationToken;
use verbatim_telemetry::Metrics;
use verbatim_telemetry::limits::{ConnectionEnd, ConnectionsClosed};

use crate::shares::{HEALTH, MINUTE, connect, rest};

/// A node with so many connections that answers `/healthz` at once, and `/slow` when `let_go` says so.
struct Node {
    at: SocketAddr,
    closed: ConnectionsClosed,
    let_go: Arc<Semaphore>,
    /// Which client asked, in order.
    asked: Arc<Mutex<Vec<String>>>,
    _stop: CancellationToken,
}

impl Node {
    async fn new(max_connections: usize) -> Self {
        let let_go = Arc::new(Semaphore::new(0));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (gate, heard) = (let_go.clone(), asked.clone());
        let slow = async move || {
            gate.acquire().await.unwrap().forget();
            "done"
        };
        let by = async move |axum::extract::Path(who): axum::extract::Path<String>| {
            heard.lock().unwrap().push(who);
            "heard"
        };
        let large = Bytes::from(vec![b'x'; 8 << 20]);
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/slow", get(slow))
            .route("/by/{who}", get(by))
            .route("/large", get(async move || large));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let options = ServeOptions {
            max_connections,
            trusted_proxies: vec!["127.0.0.99/32".parse().unwrap()],
            head_timeout: MINUTE,
            idle_timeout: MINUTE,
            unread_timeout: Duration::from_millis(300),
            ..ServeOptions::default()
        };
        let closed = Metrics::new().unwrap().limits.connections_closed();
        let gauges = ServeGauges { open: Box::new(()), closed: closed.clone() };
        tokio::spawn(serve(listener, router, stop.clone(), options, gauges));
        Self { at, closed, let_go, asked, _stop: stop }
    }

    /// A connection from this address, idle after its first answer; `None` if it is refused.
    async fn idle(&self, from: &str) -> Option<TcpStream> {
        let mut connection = connect(from, self.at).await;
        ask(&mut connection, HEALTH).await.contains(" 200 ").then_some(connection)
    }

    /// All idle connections that this address gets.
    async fn idle_ones(&self, from: &str) -> Vec<TcpStream> {
        let mut held = Vec::new();
        while let Some(connection) = self.idle(from).await {
            held.push(connection);
        }
        held
    }

    async fn slow(&self, from: &str) -> TcpStream {
        let mut connection = connect(from, self.at).await;
        connection.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        connection
    }
}

/// The head of the answer to a request; what there is of it, if the connection ends.
async fn ask(connection: &mut TcpStream, request: &[u8]) -> String {
    let _ = connection.write_all(request).await;
    answer(connection).await
}

async fn answer(connection: &mut TcpStream) -> String {
    let mut told = Vec::new();
    let mut some = [0; 1024];
    while let Ok(read @ 1..) = connection.read(&mut some).await {
        told.extend(&some[..read]);
        let text = String::from_utf8_lossy(&told);
        let body = |head: &str| text.len() - head.len() - 4;
        let length = |head: &str| {
            head.split("content-length: ")
                .nth(1)
                .unwrap()
                .split("\r\n")
                .next()
                .unwrap()
                .parse::<usize>()
                .unwrap()
        };
        if let Some((head, _)) = text.split_once("\r\n\r\n")
            && body(head) >= length(head)
        {
            break;
        }
    }
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test]
async fn two_addresses_that_hold_all_connections_keep_nobody_out() {
    let node = Node::new(32).await;
    // One with a request under way, which is the oldest of all.
    let mut under_way = node.slow("127.0.0.2").await;
    let (one, two) = (node.idle_ones("127.0.0.2").await, node.idle_ones("127.0.0.3").await);
    assert!(one.len() >= 26, "{}", one.len());
    // They go on asking, and more addresses than there are connections kept for newcomers come and stay.
    let mut newcomers = Vec::new();
    for last in 10..30 {
        let from = format!("127.0.0.{last}");
        newcomers.push(node.idle(&from).await.unwrap_or_else(|| panic!("{from} is kept out")));
    }
    assert!(node.idle("127.0.0.10").await.is_some(), "one of few gets another");
    for connection in &mut newcomers {
        assert!(ask(connection, HEALTH).await.contains(" 200 "), "who holds one keeps it");
    }
    // Who has most gave way, its oldest idle ones first, and got an orderly end.
    assert!(node.closed.get(ConnectionEnd::GaveWay) >= 20);
    let ended = one.into_iter().next().unwrap();
    assert_eq!(rest(ended).await, "");
    drop(two);
    node.let_go.add_permits(1);
    assert!(answer(&mut under_way).await.contains(" 200 "), "a request under way is never cut");
}

#[tokio::test]
async fn addresses_that_are_busy_on_every_connection_leave_some_for_newcomers() {
    let node = Node::new(32).await;
    let mut busy = Vec::new();
    for from in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..32 {
            busy.push(node.slow(from).await);
        }
    }
    for probe in ["127.0.0.4", "127.0.0.5"] {
        assert!(node.idle(probe).await.is_some(), "{probe}");
    }
    // With no idle one left, the next ones that come make busy ones end with their answers.
    let held = [node.idle("127.0.0.6").await, node.idle("127.0.0.7").await];
    assert!(held.iter().all(Option::is_some));
    node.idle("127.0.0.8").await;
    node.let_go.add_permits(64);
    let mut ending = 0;
    for connection in &mut busy {
        let told = answer(connection).await;
        let refused = told.contains(" 503 ") || told.is_empty();
        assert!(refused || told.contains(" 200 "), "{told}");
        ending += usize::from(told.contains(" 200 ") && told.contains("connection: close"));
    }
    assert!(ending >= 1, "the last newcomer asked for one");
    assert!(node.idle("127.0.0.9").await.is_some());
}

#[tokio::test]
async fn connections_of_a_proxy_give_way_to_nobody_and_leave_some_for_newcomers() {
    let node = Node::new(32).await;
    let mut proxied = node.idle_ones("127.0.0.99").await;
    assert_eq!(proxied.len(), 30);
    for probe in ["127.0.0.4", "127.0.0.5", "127.0.0.6"] {
        assert!(node.idle(probe).await.is_some(), "{probe}");
    }
    for connection in &mut proxied {
        assert!(ask(connection, HEALTH).await.contains(" 200 "));
    }
}

#[tokio::test]
async fn who_does_not_read_its_answers_loses_its_connection() {
    let node = Node::new(8).await;
    let connection = connect("127.0.0.2", node.at).await;
    for _ in 0..20 {
        // What the node does not read any more stays here.
        let _ = connection.try_write(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    while node.closed.get(ConnectionEnd::Unread) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(rest(connection).await.len() < 20 * (8 << 20));
}

#[tokio::test]
async fn who_sends_many_requests_at_once_takes_turns_with_others() {
    let node = Node::new(8).await;
    let mut clients = [node.idle("127.0.0.2").await.unwrap(), node.idle("127.0.0.3").await.unwrap()];
    let burst = |who: &str| format!("GET /by/{who} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(12);
    // Nothing is awaited in between: both are there when the node looks.
    for (client, who) in clients.iter_mut().zip(["a", "b"]) {
        assert_eq!(client.try_write(burst(who).as_bytes()).unwrap(), burst(who).len());
    }
    while node.asked.lock().unwrap().len() < 24 {
        tokio::task::yield_now().await;
    }
    let asked = node.asked.lock().unwrap().concat();
    let in_a_row = asked.as_bytes().chunk_by(|one, next| one == next).map(<[u8]>::len).max();
    assert!(in_a_row <= Some(3), "{asked}");
}
