//! Speaks HTTP as a monitoring or a browser does, and as nobody should.

use std::collections::HashMap;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Adit, LIMIT};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// Returns the address at which adit listens, from its log.
pub(crate) async fn admin_address(adit: &Adit) -> String {
    let line = adit.wait_for_log("are served over HTTP").await;
    let (_, address) = line.split_once("address=").expect(&line);
    address.trim().to_owned()
}

/// Gets a path, with further lines in the head.
pub(crate) async fn get(address: &str, path: &str, headers: &[&str]) -> Answer {
    send(address, "GET", path, headers, "").await
}

/// Sends a request and reads the answer to its end.
pub(crate) async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let request = request(address, method, path, headers, body);
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let answer = timeout(LIMIT, asking).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Answer {
        status: status.expect("a status").parse().unwrap(),
        headers: lines.map(header).collect(),
        body: body.to_owned(),
    }
}

fn request(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let host = match headers.iter().any(|line| line.starts_with("Host:")) {
        true => String::new(),
        false => format!("Host: {address}\r\n"),
    };
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {}\r\n{more}\r\n\
         {body}",
        body.len()
    )
}

/// The events of a page that is watched.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    pub(crate) async fn watch(address: &str, headers: &[&str]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = request(address, "GET", "/events", headers, "");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    /// Waits for the next event that contains a text.
    pub(crate) async fn wait_for(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                let mut line = String::new();
                assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the end");
                if line.starts_with("data: ") && line.contains(text) {
                    return line;
                }
            }
        };
        let found = timeout(LIMIT, reading).await;
        found.unwrap_or_else(|_| panic!("no event with {text:?}"))
    }

    /// Waits until no more come.
    pub(crate) async fn end(mut self) {
        let reading = async { while self.0.read_line(&mut String::new()).await.unwrap() > 0 {} };
        timeout(LIMIT, reading)
            .await
            .expect("the end of the events");
    }
}
