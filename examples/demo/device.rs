//! The demo device: a web page on a port of its own, which a browser reaches through the tunnel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::server::serve;

const PAGE: &str = include_str!("page.html");
/// Browsers connect ahead of what they may want to ask.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const MAX_REQUEST: usize = 16 * 1024;
const MAX_CONNECTIONS: usize = 256;

/// The device; it serves for as long as [`Device::serve`] is awaited.
pub(crate) struct Device {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    facts: Arc<Facts>,
}

/// What the page tells.
struct Facts {
    started: Instant,
    visits: AtomicU64,
    gateway: String,
    open: String,
}

impl Device {
    /// Takes a free port. The page names the gateway and the address that is open to the browser.
    pub(crate) async fn bind(gateway: &str, open: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let facts = Facts {
            started: Instant::now(),
            visits: AtomicU64::new(0),
            gateway: gateway.to_owned(),
            open: open.to_string(),
        };
        Ok(Self {
            listener,
            address,
            facts: Arc::new(facts),
        })
    }

    /// Serves until it is dropped, which ends the connections too.
    pub(crate) async fn serve(self) {
        let (facts, own) = (self.facts, self.address);
        serve(self.listener, MAX_CONNECTIONS, move |stream, peer| {
            let facts = Arc::clone(&facts);
            async move {
                // A visitor who leaves early is none of the device's business.
                let _ = visit(stream, peer, own, &facts).await;
            }
        })
        .await;
    }
}

async fn visit(
    mut stream: TcpStream,
    peer: SocketAddr,
    own: SocketAddr,
    facts: &Facts,
) -> io::Result<()> {
    let request = timeout(REQUEST_LIMIT, read_request(&mut stream)).await??;
    let answer = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/", ..] => {
            let visit = facts.visits.fetch_add(1, Ordering::Relaxed) + 1;
            answer("200 OK", "text/html", &page(facts, visit, peer, own))
        }
        ["GET" | "HEAD", ..] => answer("404 Not Found", "text/plain", "There is one page: /\n"),
        _ => answer(
            "405 Method Not Allowed",
            "text/plain",
            "GET is enough here.\n",
        ),
    };
    timeout(ANSWER_LIMIT, stream.write_all(answer.as_bytes())).await??;
    stream.shutdown().await
}

/// Reads up to the empty line and returns the first line.
async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

/// One answer a connection, so that every look at the page is a tunnel of its own.
fn answer(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn page(facts: &Facts, visit: u64, peer: SocketAddr, own: SocketAddr) -> String {
    let uptime = facts.started.elapsed().as_secs();
    PAGE.replace("{visit}", &visit.to_string())
        .replace("{uptime}", &format!("{}:{:02}", uptime / 60, uptime % 60))
        .replace("{peer}", &peer.to_string())
        .replace("{own}", &own.to_string())
        .replace("{gateway}", &facts.gateway)
        .replace("{open}", &facts.open)
}
