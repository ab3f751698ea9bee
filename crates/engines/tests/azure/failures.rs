//! Every documented refusal and every way in which a call breaks, as the failure that it means for the job: a row each.

use std::time::Duration;

use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;
use verbatim_engines::azure::{AzureAuth, AzureConfig, AzureTimeouts};
use verbatim_standins::{AzureSettings, Fault, Hearing, Times};

use crate::support::{World, options, request, run, spoken};

async fn world(settings: AzureSettings) -> World {
    World::new(AzureSettings { hearing: Hearing::Tones, ..settings }).await
}

fn impatient(world: &World) -> AzureConfig {
    let base = Duration::from_millis(400);
    AzureConfig {
        timeouts: AzureTimeouts { base, per_audio: 0.0, ..AzureTimeouts::default() },
        ..world.config()
    }
}

async fn failure(world: &World, config: AzureConfig) -> EngineError {
    let engine = world.engine(config);
    run(&engine, request(spoken(2000), options())).await.map(drop).expect_err("it fails")
}

/// What one fault, which stays until the engine has given up, leads to.
async fn after(fault: Fault) -> (FailureKind, Option<Duration>) {
    let world = world(AzureSettings::default()).await;
    world.azure.misbehave(fault, Times::UntilHealed);
    let error = failure(&world, world.config()).await;
    world.assert_no_violations();
    (error.kind, error.retry_after)
}

macro_rules! rows {
    ($($name:ident: $fault:expr => $kind:ident, $retry_after:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let retry_after: Option<u64> = $retry_after;
                assert_eq!(after($fault).await, (FailureKind::$kind, retry_after.map(Duration::from_secs)));
            }
        )*
    };
}

rows! {
    status_400_for_the_audio: Fault::Status(400, "InvalidAudioFormat") => BadAudio, None;
    status_400_for_an_empty_file: Fault::Status(400, "EmptyAudioFile") => BadAudio, None;
    status_400_for_a_locale: Fault::Status(400, "InvalidLocale") => UnsupportedOption, None;
    status_400_invalid_request: Fault::Status(400, "InvalidRequest") => UnsupportedOption, None;
    status_400_invalid_argument: Fault::Status(400, "InvalidArgument") => UnsupportedOption, None;
    status_401: Fault::Status(401, "Unauthorized") => EngineUnavailable, None;
    status_401_of_tokens: Fault::ExpiredToken => EngineUnavailable, None;
    status_403: Fault::Status(403, "Forbidden") => EngineUnavailable, None;
    status_404: Fault::Status(404, "NotFound") => EngineUnavailable, None;
    status_301: Fault::Status(301, "Moved") => EngineUnavailable, None;
    status_408: Fault::Status(408, "RequestTimeout") => TimedOut, None;
    status_413: Fault::Status(413, "RequestEntityTooLarge") => UnsupportedMedia, None;
    status_415: Fault::Status(415, "UnsupportedMediaType") => UnsupportedMedia, None;
    status_422: Fault::Status(422, "UnprocessableEntity") => BadAudio, None;
    status_429: Fault::Throttle { retry_after: None } => Throttled, None;
    status_429_with_retry_after: Fault::Throttle { retry_after: Some(Duration::from_secs(17)) } => Throttled, Some(17);
    status_500: Fault::Status(500, "InternalServerError") => EngineFailed, None;
    status_502: Fault::Status(502, "BadGateway") => EngineUnavailable, None;
    status_503: Fault::Status(503, "ServiceUnavailable") => EngineUnavailable, None;
    status_503_with_retry_after: Fault::StatusRetry(503, "ServiceUnavailable", "7") => EngineUnavailable, Some(7);
    status_504: Fault::Status(504, "GatewayTimeout") => EngineUnavailable, None;
    status_409: Fault::Status(409, "Conflict") => EngineFailed, None;
    reset: Fault::Reset => EngineUnavailable, None;
    broken_off: Fault::BrokenOff => EngineUnavailable, None;
    truncated_json: Fault::TruncatedJson => EngineFailed, None;
    wrong_content_type: Fault::WrongContentType => EngineFailed, None;
}

#[tokio::test]
async fn no_answer_in_time() {
    for fault in [Fault::Hang, Fault::SlowDrip] {
        let world = world(AzureSettings::default()).await;
        world.azure.misbehave(fault, Times::UntilHealed);
        assert_eq!(failure(&world, impatient(&world)).await.kind, FailureKind::TimedOut);
    }
}

#[tokio::test]
async fn nobody_there() {
    let world = world(AzureSettings::default()).await;
    world.azure.go_down().await;
    for auth in [AzureAuth::Key, AzureAuth::Token] {
        let config = AzureConfig { auth, ..world.config() };
        assert_eq!(failure(&world, config).await.kind, FailureKind::EngineUnavailable, "{auth:?}");
    }
    let endpoint = Some("http://no-such-host.invalid".to_owned());
    let elsewhere = AzureConfig { endpoint, auth: AzureAuth::Key, ..world.config() };
    assert_eq!(failure(&world, elsewhere).await.kind, FailureKind::EngineUnavailable);
}

#[tokio::test]
async fn audio_beyond_the_limits_of_the_service() {
    let small = world(AzureSettings { max_bytes: 1000, ..AzureSettings::default() }).await;
    assert_eq!(failure(&small, small.config()).await.kind, FailureKind::UnsupportedMedia);
    let short =
        world(AzureSettings { max_duration: Duration::from_secs(1), ..AzureSettings::default() }).await;
    assert_eq!(failure(&short, short.config()).await.kind, FailureKind::BadAudio);
}

#[tokio::test]
async fn more_at_once_than_the_service_lets_through() {
    let limits = verbatim_standins::Limits {
        per_minute: Some(1),
        retry_after: Some(Duration::from_secs(3)),
        ..verbatim_standins::Limits::default()
    };
    let world = world(AzureSettings { limits, ..AzureSettings::default() }).await;
    let engine = world.engine(world.config());
    run(&engine, request(spoken(2000), options())).await.map(drop).expect("the first is let through");
    let error =
        run(&engine, request(spoken(2000), options())).await.map(drop).expect_err("the second is not");
    assert_eq!((error.kind, error.retry_after), (FailureKind::Throttled, Some(Duration::from_secs(3))));
}

/// What the issuer of tokens says.
#[tokio::test]
async fn no_token() {
    for (fault, kind, retry_after) in [
        (Fault::Status(401, "Unauthorized"), FailureKind::EngineUnavailable, None),
        (Fault::Status(403, "Forbidden"), FailureKind::EngineUnavailable, None),
        (Fault::Throttle { retry_after: Some(Duration::from_secs(4)) }, FailureKind::Throttled, Some(4)),
        (Fault::Throttle { retry_after: None }, FailureKind::Throttled, None),
        (Fault::Status(500, "InternalServerError"), FailureKind::EngineUnavailable, None),
        (Fault::StatusRetry(503, "ServiceUnavailable", "9"), FailureKind::EngineUnavailable, Some(9)),
        (Fault::Reset, FailureKind::EngineUnavailable, None),
    ] {
        let world = world(AzureSettings::default()).await;
        world.azure.misbehave_at("issueToken", fault.clone(), Times::UntilHealed);
        let error = failure(&world, world.config()).await;
        assert_eq!(
            (error.kind, error.retry_after),
            (kind, retry_after.map(Duration::from_secs)),
            "{fault:?}"
        );
    }
}
