//! Shows the provider pool at work, on a clock that runs as fast as it can: a cluster that meets the limits of a
//! subscription, and one that lives through an outage. `cargo run -p verbatim-engines --example provider_pool`; with
//! `-- http`, the same limits in real time, with the Azure engine and the stand-in of an Azure (two minutes).

#[path = "../tests/pool/support/mod.rs"]
mod support;

use std::time::Duration;

use support::over_http;
use support::trial::{DOWN, Findings, JOBS, Outage, WORKERS, live_through_an_outage, meet_limits};

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|argument| argument == "http") {
        return over_http();
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    for (binds, latency) in [("the rate", 1), ("concurrency", 4)] {
        let findings = runtime()?.block_on(meet_limits(Duration::from_secs(latency)));
        println!(
            "\n{JOBS} jobs, {WORKERS} workers; 20 at once and 600 a minute; {latency} s a call: {binds} binds"
        );
        print_limits(&findings);
    }
    for (beside, with_whisper) in [("with Whisper beside it", true), ("alone", false)] {
        let outage = runtime()?.block_on(live_through_an_outage(with_whisper));
        println!(
            "\n4 jobs a second; Azure, {beside}, is down from {} to {} s",
            DOWN.start * 10,
            DOWN.end * 10
        );
        print_outage(&outage);
    }
    Ok(())
}

/// A minute takes 15 seconds: the limits are 20 at once and 40 a second.
fn over_http() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (binds, millis) in [("the rate", 250), ("concurrency", 1000)] {
        let trial = over_http::Trial {
            jobs: JOBS,
            workers: WORKERS,
            at_once: 20,
            per_minute: 600,
            minute: Duration::from_secs(15),
            latency: Duration::from_millis(millis),
        };
        println!("\n{trial:?}: {binds} binds");
        let done = runtime.block_on(over_http::meet_limits(trial))?;
        print_limits(&done.findings);
        let (peak, tokens) = (done.peak, done.tokens);
        println!("at once at most {peak}, tokens {tokens}, violations {:?}", done.violations);
    }
    Ok(())
}

fn print_limits(findings: &Findings) {
    println!("{:>6} {:>10} {:>6} {:>7} {:>8}", "second", "under way", "limit", "served", "refused");
    for sample in findings.samples.iter().filter(|sample| sample.at < 10 || sample.at.is_multiple_of(10)) {
        let support::trial::Sample { at, under_way, limit, served, refused } = sample;
        println!("{at:>6} {under_way:>10} {limit:>6} {served:>7} {refused:>8}  {}", "#".repeat(*under_way));
    }
    println!(
        "done {}, failed {}, given back {}, refused by the service {}; {:.1} s, {:.2} jobs/s of {:.2}: {:.1} %",
        findings.done,
        findings.failed,
        findings.refunded,
        findings.refused,
        findings.took.as_secs_f64(),
        findings.done as f64 / findings.took.as_secs_f64(),
        findings.allowed,
        100.0 * findings.used(),
    );
}

fn print_outage(outage: &Outage) {
    println!("{:>6} {:>6} {:>8}  breaker", "second", "azure", "whisper");
    for (place, span) in outage.spans.iter().enumerate() {
        let by = |engine: &str| span.served.get(engine).copied().unwrap_or_default();
        println!("{:>6} {:>6} {:>8}  {:?}", place * 10, by("azure"), by("whisper"), span.breaker);
    }
    println!("failed {}, given back to the queue {}", outage.failed, outage.refunded);
}
