//! Creates operations, with the machines and the far ends that belong to them.

use std::net::Ipv4Addr;
use std::time::Instant;

use simulated_cloud::{OperationId, REMOTE_ACCESS};
use smartrest::{Row, encode};
use tokio::net::TcpListener;

use super::{Game, Opening};
use crate::far_end::FarEnd;
use crate::gate::{Behind, Gate};
use crate::judge::{Asked, Expected};
use crate::lane::CONNECT_TIMEOUT;
use crate::machine;
use crate::plan::{Opens, Whose, Wish};
use crate::side::{Shared, Stream};
use crate::support::BlackHole;

impl Game<'_> {
    /// Creates an operation.
    pub(super) async fn ask(&mut self, number: usize, whose: Whose, wish: &Wish) {
        self.lane.operations += 1;
        let mark = self.lane.operations;
        let device = self.lane.device(whose).to_owned();
        let reason = |words: &[&str]| {
            Expected::Reason(words.iter().map(|&words| words.to_owned()).collect())
        };
        let key = format!("key-{mark}");
        let (id, expected) = match wish {
            Wish::Opens(opens) => (self.open(number, &device, opens).await, Expected::Success),
            Wish::Refused => {
                let host = Ipv4Addr::from(0x7f01_0000 | mark as u32 & 0xffff).to_string();
                let port = self.lane.refusing.number;
                let words = format!("cannot reach {host}:{port}: connection refused");
                let id = self.row(&device, &[&host, &port.to_string(), &key]);
                (id, reason(&[&words]))
            }
            Wish::Hangs => {
                let hole = BlackHole::new().await;
                let port = hole.port.to_string();
                self.holes.push(hole);
                let id = self.row(&device, &["127.0.0.1", &port, &key]);
                let words = format!("127.0.0.1:{port} did not answer within {CONNECT_TIMEOUT}");
                (id, reason(&[&words]))
            }
            Wish::Keyless => {
                let id = self.row(&device, &[&format!("plc-{mark}"), "22"]);
                (id, reason(&["the connection key is missing"]))
            }
            Wish::Denied => {
                let host = Ipv4Addr::from(0xc633_0000 | mark as u32 & 0xffff).to_string();
                let words = format!("the policy does not allow {host}:22");
                (self.row(&device, &[&host, "22", &key]), reason(&[&words]))
            }
        };
        // A key that nobody knows: the first to fail is told.
        let mut expected = vec![expected];
        if let Wish::Refused | Wish::Hangs = wish {
            expected.push(reason(&["HTTP 404"]));
        }
        let row = self.lane.cloud.operation(id).unwrap().row;
        self.asked.push(Asked {
            id,
            device,
            row: encode([&row]),
            expected,
            at: Instant::now(),
            life: self.lane.recorder.life(),
            disturbed: false,
        });
    }

    /// Creates an operation with a row of its own.
    fn row(&self, device: &str, fields: &[&str]) -> OperationId {
        let row = Row::new(["530", device].iter().chain(fields).copied());
        let cloud = &self.lane.cloud;
        cloud.create_operation(device, REMOTE_ACCESS, row).unwrap()
    }

    async fn open(&mut self, number: usize, device: &str, opens: &Opens) -> OperationId {
        let Opens {
            machine,
            cloud,
            frame,
            lan,
        } = opens;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let behind = Behind::Tcp(listener.local_addr().unwrap());
        let lan = Gate::start("lan", behind, std::slice::from_ref(lan));
        let tunnel = self
            .lane
            .cloud
            .open_tunnel(device, "127.0.0.1", lan.port)
            .unwrap();
        let id = tunnel.operation;
        let opening = Opening {
            id,
            parts: [machine.clone(), cloud.clone()],
            machine: Shared::default(),
            cloud: Shared::default(),
            lan,
            is_stopped: false,
        };
        let machine_serves = machine::serve(
            listener,
            number,
            machine.clone(),
            opening.machine.clone(),
            self.farewell.clone(),
        );
        self.parties.spawn(machine_serves);
        let far_end = FarEnd {
            number,
            part: cloud.clone(),
            hears: match machine.echoes {
                true => Stream::down(number),
                false => Stream::up(number),
            },
            frame: *frame,
            notes: opening.cloud.clone(),
            farewell: self.farewell.clone(),
        };
        self.parties.spawn(far_end.serve(tunnel));
        self.openings.push(opening);
        id
    }
}
