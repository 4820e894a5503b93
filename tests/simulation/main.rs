//! adit in a world of dice: the whole agent against a simulated platform, broker, network and LAN,
//! in one thread, in virtual time, from one seed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]
#![expect(dead_code, reason = "the parties that use all of it come next")]

mod broker;
mod cloud;
mod faults;
mod gateway;
#[path = "../judge/mod.rs"]
mod judge;
mod lan;
mod network;
mod places;
mod runner;
mod schedule;
mod side;
mod trace;
mod verdict;
mod world;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    use crate::gateway::Gateway;
    use crate::network::{Network, Zone};
    use crate::runner::Run;

    const MINUTE: Duration = Duration::from_secs(60);
    const SETTINGS: [&str; 6] = [
        "device.id=gw-1",
        "cloud.url=http://10.0.0.2",
        "mqtt.url=mqtt://10.0.0.1",
        "auth.tenant=t1",
        "auth.username=device_gw-1",
        "auth.password=hunter2",
    ];

    /// A broker that reads and says nothing.
    async fn logs_in_again_and_again(network: &Network) -> Vec<String> {
        let listener = network.listen(Zone::Broker, "10.0.0.1:1883".parse().unwrap());
        let mut gateway = Gateway::new(network, &SETTINGS);
        gateway.start();
        let mut heard = 0;
        let hear = async {
            while heard < 3 {
                let mut socket = listener.accept().await;
                let mut packet = Vec::new();
                // A reset is as good as an end, and where the network is silent there is none.
                let _ = timeout(MINUTE, socket.read_to_end(&mut packet)).await;
                heard += usize::from(packet.starts_with(b"\x10"));
            }
        };
        let was_heard = timeout(MINUTE * 60, hear).await.is_ok();
        gateway.stop().await;
        let mut faults = gateway.take_faults();
        if !was_heard {
            faults.push("no three logins within an hour".to_owned());
        }
        faults
    }

    #[test]
    fn plays_schedules() {
        for seed in 0..3 {
            let outcome = Run::of(seed).play(crate::world::play);
            assert_eq!(outcome.faults, [""; 0], "seed {seed}");
        }
    }

    #[test]
    fn plays_a_schedule_and_leaves_nothing() {
        for seed in 0..100 {
            let outcome = Run::of(seed).play(logs_in_again_and_again);
            assert_eq!(outcome.faults, [""; 0], "seed {seed}");
        }
    }

    #[test]
    #[cfg_attr(
        not(tokio_unstable),
        ignore = "tokio gives select! the same dice only so"
    )]
    fn brings_the_same_trace_from_the_same_seed() {
        for seed in 0..20 {
            let run = Run {
                is_traced: true,
                ..Run::of(seed)
            };
            let [first, second] = [(); 2].map(|()| run.play(logs_in_again_and_again).trace);
            assert!(first.contains("adit starts"));
            assert_eq!(first, second, "seed {seed}");
        }
    }
}
