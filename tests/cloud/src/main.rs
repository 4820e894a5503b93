//! The simulated platform as a program, for a demo whose parts run in containers of their own.
//!
//! It is set up by the environment: `CLOUD_BROKER` (`HOST:PORT`), `CLOUD_DEVICE` (external id),
//! and where wanted `CLOUD_LISTEN` (`ADDRESS:PORT` for WebSockets), `CLOUD_DEVICE_PASSWORD`, and
//! `CLOUD_FORWARD` (`ADDRESS:PORT`), whose connections reach `CLOUD_TARGET` (`HOST:PORT`, as the
//! device knows it). It prints every row of the device.

use std::env;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use simulated_cloud::{Cloud, Options};
use smartrest::Target;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_LISTEN: &str = "0.0.0.0:8080";
/// How long the loop that prints rows waits before it looks again unasked.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let device = env::var("CLOUD_DEVICE").context("CLOUD_DEVICE, the external id, is not set")?;
    let broker = env::var("CLOUD_BROKER").context("CLOUD_BROKER, HOST:PORT, is not set")?;
    let broker: Target = broker.parse().context("CLOUD_BROKER")?;
    let mut options = Options::new(&device, broker.port());
    options.broker.host = broker.host().to_owned();
    let listen = env::var("CLOUD_LISTEN").unwrap_or_else(|_| DEFAULT_LISTEN.to_owned());
    options.listen = listen
        .parse()
        .with_context(|| format!("CLOUD_LISTEN: '{listen}' is not ADDRESS:PORT"))?;
    if let Ok(password) = env::var("CLOUD_DEVICE_PASSWORD") {
        options.device_login.password = password;
    }
    let login = options.device_login.clone();
    let cloud = Cloud::start(options).await?;
    say(&format!(
        "{} for {}/{}",
        cloud.url(),
        login.tenant,
        login.user
    ))?;
    if let Ok(forward) = env::var("CLOUD_FORWARD") {
        let target = env::var("CLOUD_TARGET").context("CLOUD_TARGET, HOST:PORT, is not set")?;
        let target: Target = target.parse().context("CLOUD_TARGET")?;
        let listener = TcpListener::bind(&forward)
            .await
            .with_context(|| format!("cannot listen at {forward}"))?;
        cloud.forward(listener, &device, target.host(), target.port());
        say(&format!("{forward} reaches {target} through {device}"))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        printed = print_rows(&cloud) => printed?,
    }
    cloud.shutdown().await;
    Ok(())
}

/// Prints every row that arrives, for as long as it can.
async fn print_rows(cloud: &Cloud) -> io::Result<()> {
    let mut printed = 0;
    loop {
        let fresh = cloud.wait_until(LOOK_AGAIN, |platform| {
            let fresh = platform.log().get(printed..)?;
            (!fresh.is_empty()).then(|| fresh.to_vec())
        });
        for record in fresh.await.unwrap_or_default() {
            printed += 1;
            say(&format!(
                "{} {}",
                record.topic,
                smartrest::encode([&record.row])
            ))?;
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
