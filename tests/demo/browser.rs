//! A headless Chromium, driven over its DevTools protocol: what a page shows, whether it holds in a
//! narrow window, and what it complains of.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Folder, LIMIT, path};

/// The pause between two looks at a page.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running browser with one page open.
pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    last_id: u64,
    /// What scripts threw and what the browser logged as an error, a refused resource say.
    complaints: Vec<Value>,
    _process: Child,
    _folder: Folder,
}

impl Browser {
    pub(crate) async fn start(name: &str) -> Self {
        let folder = Folder::new(name);
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--remote-debugging-port=0",
                "--disable-background-networking",
            ])
            .arg(format!("--user-data-dir={}", path(&folder.0)))
            .arg("about:blank")
            .env("HOME", &folder.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command
            .spawn()
            .expect("chromium is missing: tests/run installs it");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            while let Some(line) = log.next_line().await.unwrap() {
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return url.to_owned();
                }
            }
            panic!("chromium does not start");
        });
        let url = address.await.unwrap();
        // What it says later is of no interest, but must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let host = url
            .strip_prefix("ws://")
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        let tcp = TcpStream::connect(host).await.unwrap();
        let (socket, _) = timeout(LIMIT, client_async(&url, tcp))
            .await
            .unwrap()
            .unwrap();
        let mut browser = Self {
            socket,
            session: String::new(),
            last_id: 0,
            complaints: Vec::new(),
            _process: process,
            _folder: folder,
        };
        let target = browser
            .ask("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach).await;
        attached["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.session);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.ask(domain, json!({})).await;
        }
        browser
    }

    /// Sets the width of the window in pixels, and whether its user likes it dark.
    pub(crate) async fn resize(&mut self, width: u32, dark: bool) {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let value = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.ask("Emulation.setEmulatedMedia", media).await;
    }

    /// Forbids the page its scripts, from the next load on.
    pub(crate) async fn forbid_scripts(&mut self) {
        self.ask(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": true }),
        )
        .await;
    }

    pub(crate) async fn open(&mut self, url: &str) {
        self.ask("Page.navigate", json!({ "url": url })).await;
        self.wait_for("document.readyState == 'complete' && location.href != 'about:blank'")
            .await;
    }

    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.ask("Runtime.evaluate", asked).await;
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn wait_for(&mut self, expression: &str) {
        let looks = async {
            while self.evaluate(expression).await != json!(true) {
                sleep(LOOK_AGAIN).await;
            }
        };
        if timeout(LIMIT, looks).await.is_err() {
            let shown = self.evaluate("document.body.innerText").await;
            panic!("not within {LIMIT:?}: {expression}; shown: {shown}");
        }
    }

    /// Asserts that nothing is wider than the window, that every text stands out from what is behind
    /// it (4.5 to 1, WCAG 2.1 AA), and that neither browser nor scripts complained.
    pub(crate) async fn expect_fit(&mut self) {
        let shown = self.evaluate(LAYOUT).await;
        assert_eq!(shown["overflow"], json!([]), "wider than the window");
        assert_eq!(shown["pale"], json!([]), "hard to read");
        assert_eq!(self.complaints, Vec::<Value>::new());
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let text = Message::text(request.to_string());
        self.socket.send(text).await.unwrap();
        let answered = async {
            loop {
                let message = self.socket.next().await.unwrap().unwrap();
                let Ok(mut message) = serde_json::from_slice::<Value>(&message.into_data()) else {
                    continue;
                };
                if message["id"] == json!(self.last_id) {
                    assert!(message.get("error").is_none(), "{method}: {message}");
                    return message["result"].take();
                }
                let is_error = message["params"]["entry"]["level"] == json!("error");
                if message["method"] == json!("Runtime.exceptionThrown") || is_error {
                    self.complaints.push(message);
                }
            }
        };
        timeout(LIMIT, answered)
            .await
            .unwrap_or_else(|_| panic!("no answer to {method}"))
    }
}

/// Elements that stick out of the window, and those whose text has too little contrast.
const LAYOUT: &str = r"(() => {
  const part = (value) => value / 255 <= .04045 ? value / 255 / 12.92 : ((value / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const behind = (element) => {
    if (!element) return dark ? [18, 18, 18] : [255, 255, 255];
    return over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  const name = (element) => element.tagName + ': ' + element.textContent.trim().slice(0, 40);
  const elements = [...document.body.querySelectorAll('*')].filter((e) => e.checkVisibility() && !e.closest('svg'));
  const overflow = document.documentElement.scrollWidth > innerWidth
    ? elements.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map(name) : [];
  const pale = elements.filter((e) => {
    if (![...e.childNodes].some((n) => n.nodeType == 3 && n.textContent.trim())) return false;
    const ground = behind(e), ink = over(parse(getComputedStyle(e).color), ground);
    const [a, b] = [light(ink), light(ground)].sort((a, b) => b - a);
    return (a + .05) / (b + .05) < 4.5;
  }).map((e) => name(e) + ' ' + getComputedStyle(e).color);
  return { overflow, pale };
})()";
