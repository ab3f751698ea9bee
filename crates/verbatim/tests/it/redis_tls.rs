//! Redis behind TLS, with a certificate of an authority of the house: trusted when the machine trusts the authority.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::support::redis_server::RedisServer;
use crate::support::sound::hello_times;
use crate::support::{Client, Server};

/// A certificate for 127.0.0.1, its key, and the authority that vouches for it.
fn make_certificates(folder: &Path) -> Result<()> {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=house \
                  -keyout ca.key -out ca.pem && \
                  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=redis -keyout redis.key \
                  -out redis.csr && \
                  printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' > extensions && \
                  openssl x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
                  -out redis.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

#[tokio::test]
async fn the_machines_authorities_decide_whether_redis_is_trusted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    make_certificates(folder.path())?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let (certificate, key, authority) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
    let _redis = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "open sesame",
    ]);
    let url = format!("rediss://:open%20sesame@127.0.0.1:{port}");
    let settings = [
        ("VERBATIM__REDIS__URL", url.as_str()),
        ("VERBATIM__AUTH__REQUIRED", "false"),
        ("VERBATIM__WORKER__ENGINES", "fake"),
    ];
    let stranger = Server::start_node("api", folder.path(), &settings).await;
    let refusal =
        format!("{:#}", stranger.err().context("a certificate of an unknown authority was accepted")?);
    ensure!(refusal.contains("certificate") && !refusal.contains("sesame"), "{refusal}");

    let trusting = [&settings[..], &[("SSL_CERT_FILE", authority.as_str())]].concat();
    let _worker = Server::start_node("worker", folder.path(), &trusting).await?;
    let api = Server::start_node("api", folder.path(), &trusting).await?;
    let client = Client::new(api.url());
    let id = client.accepted(hello_times(1), &[]).await?;
    let job = client.ended(&id).await?;
    ensure!(job["status"] == "completed", "{job}");
    Ok(())
}
