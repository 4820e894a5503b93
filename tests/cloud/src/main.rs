//! The simulated platform as a program, for a demo whose parts run in containers of their own, and
//! for whoever wants to try an agent against it by hand. It prints every row of the device.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use simulated_cloud::{Cloud, Options};
use smartrest::Target;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long the loop that prints rows waits before it looks again unasked.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// A simulated Cumulocity for one gateway: it shares a broker with the gateway, answers its rows, and
/// serves the WebSockets of its tunnels. For tests and demos; it keeps nothing and encrypts nothing.
#[derive(Parser)]
#[command(
    name = "simulated-cloud",
    after_help = "\
Example, with a broker at 127.0.0.1:1883 and an SSH server on this machine:
  simulated-cloud --device gateway-7 --broker 127.0.0.1:1883 --listen 127.0.0.1:8080 \\
    --forward 127.0.0.1:8530 --target 127.0.0.1:22
  adit run --set device.id=gateway-7 --set mqtt.url=mqtt://127.0.0.1 --set cloud.url=http://127.0.0.1:8080 \\
    --set auth.tenant=t12345 --set auth.username=device_gateway-7    # ADIT_AUTH_PASSWORD=device-password
  ssh -p 8530 USER@127.0.0.1"
)]
struct Arguments {
    /// External id of the gateway
    #[arg(long, value_name = "ID", env = "CLOUD_DEVICE")]
    device: String,
    /// The broker that the gateway logs in to as well
    #[arg(long, value_name = "HOST:PORT", env = "CLOUD_BROKER")]
    broker: Target,
    /// Where devices open their WebSockets, and an operator's client asks
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CLOUD_LISTEN",
        default_value = "0.0.0.0:8080"
    )]
    listen: SocketAddr,
    /// Password of the device's user, which is t12345/device_<ID>
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "CLOUD_DEVICE_PASSWORD",
        hide_env_values = true,
        default_value = "device-password"
    )]
    device_password: String,
    /// Listen here and make a tunnel to the target of each connection
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CLOUD_FORWARD",
        requires = "target"
    )]
    forward: Option<SocketAddr>,
    /// The machine that --forward reaches, as the gateway knows it
    #[arg(long, value_name = "HOST:PORT", env = "CLOUD_TARGET")]
    target: Option<Target>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "simulated-cloud: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut options = Options::new(&arguments.device, arguments.broker.port());
    arguments.broker.host().clone_into(&mut options.broker.host);
    options.listen = arguments.listen;
    options.device_login.password = arguments.device_password;
    let login = options.device_login.clone();
    let cloud = Cloud::start(options).await?;
    say(&format!(
        "{} for {}/{}",
        cloud.url(),
        login.tenant,
        login.user
    ))?;
    if let (Some(forward), Some(target)) = (arguments.forward, arguments.target) {
        let listener = TcpListener::bind(forward)
            .await
            .with_context(|| format!("cannot listen at {forward}"))?;
        let device = &arguments.device;
        cloud.forward(listener, device, target.host(), target.port());
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
