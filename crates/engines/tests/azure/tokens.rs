//! The token service on several nodes, over one shared state, in virtual time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use futures::future::join_all;
use reqwest::Url;
use secrecy::SecretString;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::SharedState;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_engines::azure::tokens::{
    AccessToken, SpeechAccount, TokenFailure, TokenIssuer, TokenPorts, TokenService,
};
use verbatim_telemetry::Metrics;

use crate::support::shared::{SharedMemory, Stalling};
use crate::support::{Ids, TokioClock};

/// How long Azure's tokens are valid.
const VALID: Duration = Duration::from_secs(600);

/// Issues numbered tokens, each after 300 ms, and remembers when.
struct Issuer {
    clock: Arc<dyn Clock>,
    issued: Mutex<Vec<Timestamp>>,
    asked: AtomicUsize,
    /// Never answers.
    hangs: AtomicBool,
    /// Answers with this instead.
    fails: Mutex<Option<TokenFailure>>,
}

#[async_trait]
impl TokenIssuer for Issuer {
    async fn issue(&self, _: &SpeechAccount) -> Result<SecretString, TokenFailure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if let Some(failure) = self.fails.lock().expect("nobody panicked").clone() {
            return Err(failure);
        }
        let now = self.clock.now();
        let number = {
            let mut issued = self.issued.lock().expect("nobody panicked");
            issued.push(now);
            issued.len()
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(SecretString::from(format!("token-{number}")))
    }
}

struct World {
    clock: Arc<dyn Clock>,
    shared: Arc<SharedMemory>,
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = TokioClock::new();
        let issuer = Issuer {
            clock: Arc::clone(&clock),
            issued: Mutex::default(),
            asked: AtomicUsize::new(0),
            hangs: AtomicBool::new(false),
            fails: Mutex::default(),
        };
        let shared = SharedMemory::new(Arc::clone(&clock));
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        Self { clock, shared, issuer: Arc::new(issuer), metrics }
    }

    fn node_over(&self, number: u64, fraction: f64, shared: Arc<dyn SharedState>) -> Arc<TokenService> {
        let ports = TokenPorts {
            shared,
            clock: Arc::clone(&self.clock),
            ids: Ids::new(number, fraction),
            metrics: Arc::clone(&self.metrics),
        };
        Arc::new(TokenService::with_issuer(ports, self.issuer.clone()))
    }

    fn node(&self, number: u64, fraction: f64) -> Arc<TokenService> {
        self.node_over(number, fraction, self.shared.clone())
    }

    fn nodes(&self) -> [Arc<TokenService>; 4] {
        [(1, 0.0), (2, 0.3), (3, 0.6), (4, 0.99)].map(|(number, fraction)| self.node(number, fraction))
    }

    fn issued(&self) -> usize {
        self.issuer.issued.lock().expect("nobody panicked").len()
    }

    fn asked(&self) -> usize {
        self.issuer.asked.load(Ordering::Relaxed)
    }

    fn fail_with(&self, failure: Option<TokenFailure>) {
        *self.issuer.fails.lock().expect("nobody panicked") = failure;
    }

    fn count(&self, outcome: &str) -> u64 {
        let metrics = self.metrics.render().expect("metrics");
        let name = format!("verbatim_tokens_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().expect("a number"))
    }
}

fn account() -> SpeechAccount {
    account_of("key")
}

fn account_of(key: &str) -> SpeechAccount {
    let issuer = Url::parse("https://westus.api.cognitive.microsoft.com/sts/v1.0/issueToken").expect("a URL");
    SpeechAccount::new("westus", key.into(), issuer)
}

async fn forward(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn twenty_tasks_on_four_nodes_need_one_token() -> Result<()> {
    let world = World::new();
    let (nodes, account) = (world.nodes(), account());
    let tokens = join_all((0..20).map(|task| nodes[task % 4].token(&account))).await;
    let tokens: Vec<AccessToken> = tokens.into_iter().collect::<Result<_, _>>()?;
    assert!(tokens.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((world.issued(), world.count("issued"), world.count("reused")), (1, 1, 19));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_token_at_hand_does_not_ask_the_store() -> Result<()> {
    let world = World::new();
    let (node, account) = (world.node(1, 0.5), account());
    node.token(&account).await?;
    let before = world.shared.calls.load(Ordering::Relaxed);
    for _ in 0..500 {
        forward(1).await;
        node.token(&account).await?;
    }
    assert_eq!(world.shared.calls.load(Ordering::Relaxed), before);
    assert_eq!(world.issued(), 1);
    Ok(())
}

/// The issue: 1,000 jobs over a simulated hour on 4 workers issue no more than 7 tokens for one key.
#[tokio::test(start_paused = true)]
async fn an_hour_of_a_thousand_jobs_on_four_workers_needs_seven_tokens() -> Result<()> {
    let world = World::new();
    let (nodes, account) = (world.nodes(), account());
    let workers = nodes.iter().enumerate().map(|(number, node)| {
        let (world, account) = (&world, &account);
        async move {
            let mut oldest = Duration::ZERO;
            for job in 0..250_u64 {
                // Never the same distance, and never in step with the others.
                let at = Duration::from_millis(job * 14_400 + number as u64 * 3_701 + job * job % 977);
                let begun = Duration::from_millis(u64::try_from(world.clock.now().as_millis()).unwrap_or(0));
                let start = Duration::from_millis(1_767_225_600_000);
                tokio::time::sleep((start + at).saturating_sub(begun)).await;
                let token = node.token(account).await?;
                let issued = world.issuer.issued.lock().expect("nobody panicked").clone();
                let number = (1..=issued.len())
                    .find(|number| token == AccessToken::from(SecretString::from(format!("token-{number}"))))
                    .ok_or_else(|| anyhow::anyhow!("a token that nobody issued"))?;
                oldest = oldest.max(world.clock.now().since(issued[number - 1]));
            }
            anyhow::Ok(oldest)
        }
    });
    let mut oldest = Duration::ZERO;
    for worker in join_all(workers).await {
        oldest = oldest.max(worker?);
    }
    println!(
        "1000 jobs on 4 workers in an hour: {} tokens issued, {} reuses, the oldest in use was {} s old",
        world.issued(),
        world.count("reused"),
        oldest.as_secs()
    );
    assert!(world.issued() <= 7, "{}", world.issued());
    assert!(oldest < VALID, "{oldest:?}");
    assert_eq!(world.count("issued") + world.count("reused"), 1000);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn others_go_on_with_the_old_token_while_one_renews() -> Result<()> {
    let world = World::new();
    let (nodes, account) = (world.nodes(), account());
    let old = nodes[0].token(&account).await?;
    for node in &nodes {
        assert_eq!(node.token(&account).await?, old);
    }
    forward(545).await;
    let tokens = join_all((0..20).map(|task| nodes[task % 4].token(&account))).await;
    let tokens: Vec<AccessToken> = tokens.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(tokens.iter().filter(|token| **token != old).count(), 1, "the one that renewed");
    assert_eq!(world.issued(), 2);
    forward(3).await;
    for node in &nodes {
        assert_ne!(node.token(&account).await?, old);
    }
    assert_eq!(world.issued(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn when_the_holder_dies_another_takes_over_after_its_lock_lapsed() -> Result<()> {
    let world = World::new();
    let (dying, other, account) = (world.node(1, 0.5), world.node(2, 0.5), account());
    world.issuer.hangs.store(true, Ordering::Relaxed);
    tokio::select! {
        token = dying.token(&account) => panic!("{token:?}"),
        () = forward(1) => {}
    }
    world.issuer.hangs.store(false, Ordering::Relaxed);
    let begun = world.clock.now();
    other.token(&account).await?;
    let waited = world.clock.now().since(begun);
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&waited), "virtual time: {waited:?}");
    assert_eq!((world.asked(), world.issued()), (2, 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_holder_writes_whose_lock_was_taken_over_is_dropped() -> Result<()> {
    let world = World::new();
    // Its second look at the store, with the token in hand, comes twelve seconds late.
    let frozen = Stalling {
        inner: Arc::clone(&world.shared),
        stalls_at: 2,
        stall: Duration::from_secs(12),
        reads: AtomicUsize::new(0),
    };
    let (zombie, other, account) = (world.node_over(1, 0.5, Arc::new(frozen)), world.node(2, 0.5), account());
    let late = async {
        forward(1).await;
        other.token(&account).await
    };
    let (from_zombie, from_other) = tokio::join!(zombie.token(&account), late);
    let (from_zombie, from_other) = (from_zombie?, from_other?);
    assert_eq!(world.issued(), 2);
    assert_eq!(from_zombie, from_other, "the zombie uses what is in the cell");
    assert_eq!(world.node(3, 0.5).token(&account).await?, from_other);
    assert_eq!(from_other, AccessToken::from(SecretString::from("token-2")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_however_many_say_so() -> Result<()> {
    let world = World::new();
    let (nodes, account) = (world.nodes(), account());
    let mut old = Vec::new();
    for node in &nodes {
        old.push(node.token(&account).await?);
    }
    let renewals = (0..20).map(|task| {
        let (node, old, account) = (&nodes[task % 4], &old[task % 4], &account);
        async move {
            node.refused(account, old);
            node.token(account).await
        }
    });
    let new: Vec<AccessToken> = join_all(renewals).await.into_iter().collect::<Result<_, _>>()?;
    assert!(new.iter().all(|token| *token == new[0] && *token != old[0]));
    assert_eq!(world.issued(), 2);

    // One that is late, about a token that is gone already, changes nothing.
    nodes[0].refused(&account, &old[0]);
    assert_eq!(nodes[0].token(&account).await?, new[0]);
    assert_eq!(world.issued(), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_share_tokens_and_names_do_not_hold_keys() -> Result<()> {
    let world = World::new();
    let node = world.node(1, 0.5);
    let one = node.token(&account_of("one-secret-key")).await?;
    let other = node.token(&account_of("other-secret-key")).await?;
    assert_ne!(one, other);
    let names: Vec<String> = world.shared.list("").await?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2);
    assert!(
        names.iter().all(|name| name.starts_with("azure-token:westus:") && !name.contains("secret")),
        "{names:?}"
    );
    let debug = format!("{one:?} {:?}", account_of("one-secret-key"));
    assert!(!debug.contains("token-1") && !debug.contains("secret"), "{debug}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_node_goes_on_alone() -> Result<()> {
    let world = World::new();
    let (node, account) = (world.node(1, 0.5), account());
    let old = node.token(&account).await?;
    world.shared.down.store(true, Ordering::Relaxed);
    forward(550).await;
    assert_eq!(node.token(&account).await?, old, "due, but good");
    assert_eq!(world.issued(), 1);
    forward(30).await;
    let own = join_all((0..20).map(|_| node.token(&account))).await;
    assert!(own.into_iter().all(|token| token.is_ok_and(|token| token != old)));
    assert_eq!(world.issued(), 2, "one for this node");
    world.shared.down.store(false, Ordering::Relaxed);
    forward(550).await;
    node.token(&account).await?;
    assert_eq!(world.issued(), 3);
    assert_eq!(world.shared.list("azure-token:").await?.len(), 1, "shared again");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_leaves_the_old_token_in_use() -> Result<()> {
    let world = World::new();
    let (nodes, account) = (world.nodes(), account());
    let old = nodes[0].token(&account).await?;
    forward(545).await;
    world.fail_with(Some(TokenFailure::unavailable(None)));
    for node in &nodes {
        assert_eq!(node.token(&account).await?, old);
    }
    assert_eq!(world.asked(), 2, "the others leave the issuer alone for a moment");
    world.fail_with(None);
    forward(5).await;
    assert_ne!(nodes[1].token(&account).await?, old);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_issuer_is_told_to_all_nodes() {
    let (nodes_ask, key_refused) = (20, TokenFailure::key_refused());
    for (failure, kind, quiet) in [
        (key_refused, FailureKind::EngineUnavailable, 60),
        (TokenFailure::throttled(Some(Duration::from_secs(7))), FailureKind::Throttled, 7),
        (TokenFailure::throttled(None), FailureKind::Throttled, 5),
        (TokenFailure::unavailable(None), FailureKind::EngineUnavailable, 1),
    ] {
        let world = World::new();
        let (nodes, account) = (world.nodes(), account());
        world.fail_with(Some(failure));
        for answer in join_all((0..nodes_ask).map(|task| nodes[task % 4].token(&account))).await {
            assert_eq!(answer.map_err(|error| error.kind), Err(kind));
        }
        assert_eq!(world.asked(), 1, "{kind:?}");
        forward(quiet - 1).await;
        assert!(nodes[1].token(&account).await.is_err());
        assert_eq!(world.asked(), 1, "{kind:?}");
        forward(1).await;
        world.fail_with(None);
        assert!(nodes[1].token(&account).await.is_ok());
        assert_eq!(world.count("failed"), nodes_ask as u64 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_is_not_waited_for_for_ever() {
    let world = World::new();
    world.issuer.hangs.store(true, Ordering::Relaxed);
    let begun = world.clock.now();
    let answer = world.node(1, 0.5).token(&account()).await;
    assert_eq!(answer.map_err(|error| error.kind), Err(FailureKind::EngineUnavailable));
    assert!(world.clock.now().since(begun) < Duration::from_secs(10), "virtual time");
}
