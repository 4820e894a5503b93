//! The demo as a stranger meets it: a page, ssh, scp and Ctrl-C, all through its local port.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here fails a test"
)]

mod browser;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use browser::Browser;

/// For each single thing that is waited for.
const LIMIT: Duration = Duration::from_secs(60);
/// Well below what a client waits that is told nothing.
const AT_ONCE: Duration = Duration::from_secs(4);
const COPY_SIZE: usize = 20 * 1024 * 1024;

/// The running demo.
struct Demo {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    told: Vec<String>,
    address: SocketAddr,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Self {
        let mut child = demo(arguments).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut demo = Self {
            child,
            output,
            told: Vec::new(),
            address,
        };
        let open = demo.wait_for(|line| line.starts_with("open")).await;
        demo.address = address_in(&open);
        demo
    }

    /// Waits for a line and returns it.
    async fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let found = timeout(LIMIT, async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                self.told.push(line.clone());
                if wanted(&line) {
                    return Some(line);
                }
            }
            None
        });
        let found = found.await.ok().flatten();
        found.unwrap_or_else(|| panic!("not told, but this was: {:#?}", self.told))
    }

    /// Returns what was told of something at the start.
    fn line_of(&self, what: &str) -> String {
        let mut lines = self.told.iter();
        let found = lines.find_map(|line| line.trim_start().strip_prefix(what));
        found
            .unwrap_or_else(|| panic!("{:#?}", self.told))
            .trim()
            .to_owned()
    }

    /// Where the agent shows its status.
    fn status_page(&self) -> SocketAddr {
        let link = self.line_of("status");
        let address = link.strip_prefix("http://").unwrap().split(',').next();
        address.unwrap().parse().unwrap()
    }

    /// Sends a signal as a terminal or a service manager does, and waits for the end.
    async fn end_by(&mut self, signal: &str) -> ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        let kill = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {pid}")])
            .status();
        assert!(timeout(LIMIT, kill).await.unwrap().unwrap().success());
        self.wait_for(|line| line.starts_with("done")).await;
        timeout(LIMIT, self.child.wait()).await.unwrap().unwrap()
    }
}

fn demo(arguments: &[&str]) -> Command {
    // Tests lie in `deps`, beside the folder of the examples.
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("demo");
    assert!(
        program.exists(),
        "no {}: cargo build --example demo",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// The last word of the invitation that is an address; `ssh` takes its port apart from it.
fn address_in(open: &str) -> SocketAddr {
    let words = open
        .split(' ')
        .map(|word| word.trim_start_matches("http://"));
    words
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or_else(|| panic!("{open}"))
}

async fn get(address: SocketAddr, path: &str) -> String {
    let fetched = timeout(LIMIT, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    fetched.await.unwrap()
}

#[tokio::test]
async fn shows_the_page_of_the_device_and_tells_each_step() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]).await;
    let page = get(demo.address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("You see this page through a tunnel"),
        "{page}"
    );
    assert!(page.contains("<dd>1 "), "{page}");
    assert!(page.ends_with("</html>\n"), "{page}");
    demo.wait_for(|line| line.contains("ended:")).await;
    assert!(get(demo.address, "/").await.contains("<dd>2 "));
    assert!(
        get(demo.address, "/other")
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    assert!(demo.end_by("INT").await.success());

    let first: Vec<_> = demo
        .told
        .iter()
        .filter(|line| line.starts_with("  #1 "))
        .collect();
    let steps = [
        [
            "<- 530,demo-gateway,127.0.0.1,",
            ",<key> ",
            "the cloud asks",
        ],
        ["-> 504,1001", "", "EXECUTING"],
        ["== 127.0.0.1:", "", "both ends stand"],
        ["-> 506,1001", "", "SUCCESSFUL"],
        ["bytes to the cloud, ", " to the device", "ended: "],
    ];
    assert_eq!(first.len(), steps.len(), "{:#?}", demo.told);
    for (line, words) in first.into_iter().zip(steps) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    assert_eq!(demo.told.last().unwrap(), "done, tunnels: 3");
}

#[tokio::test]
async fn ends_in_order_while_tunnels_are_open() {
    for signal in ["INT", "TERM"] {
        let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]).await;
        let mut idle = TcpStream::connect(demo.address).await.unwrap();
        demo.wait_for(|line| line.contains("SUCCESSFUL")).await;
        assert!(demo.end_by(signal).await.success(), "{signal}");
        assert!(
            demo.told.iter().any(|line| line.contains("ended: ")),
            "{:#?}",
            demo.told
        );
        let ended = timeout(LIMIT, idle.read(&mut [0])).await.unwrap();
        assert_eq!(ended.unwrap(), 0, "{signal}");
    }
}

#[tokio::test]
async fn tells_why_a_tunnel_failed() {
    // Nobody listens where a listener was just given up.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let target = closed.to_string();
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0", "--target", &target]).await;
    let mut client = TcpStream::connect(demo.address).await.unwrap();
    let line = demo.wait_for(|line| line.contains("FAILED")).await;
    assert!(line.contains(&target) && line.contains("refused"), "{line}");
    // The client does not wait until the connection key is too old, which takes 8 s.
    let ended = timeout(AT_ONCE, client.read(&mut [0])).await;
    let ended = ended.expect("the client still waits");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn links_the_status_page_of_the_agent() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]).await;
    let page = get(demo.status_page(), "/").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("demo-gateway"), "{page}");
    assert!(demo.end_by("INT").await.success());
}

#[tokio::test]
async fn shows_pages_that_hold_in_every_window() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]).await;
    let mut browser = Browser::start("windows").await;
    let _tunnel = TcpStream::connect(demo.address).await.unwrap();
    demo.wait_for(|line| line.contains("SUCCESSFUL")).await;
    for address in [demo.address, demo.status_page()] {
        browser.open(&format!("http://{address}")).await;
        for (width, dark) in [(360, false), (360, true), (1280, false), (1280, true)] {
            browser.resize(width, dark).await;
            browser.expect_fit().await;
        }
    }
    assert!(demo.end_by("INT").await.success());
}

#[tokio::test]
async fn keeps_the_status_page_up_to_date_and_shows_it_without_scripts_too() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]).await;
    let mut browser = Browser::start("live").await;
    let page = format!("http://{}", demo.status_page());
    browser.open(&page).await;
    let target = demo.line_of("target");
    let (target, _) = target.split_once(',').unwrap();
    let is_shown = |yes: bool| {
        let cells = "[...document.querySelectorAll('#tunnels td')]";
        format!(
            "document.mine == 1 && {cells}.some((cell) => cell.innerText == '{target}') == {yes}"
        )
    };
    // It is the same page all the time: a reload would forget this.
    browser.evaluate("document.mine = 1").await;
    browser.wait_for(&is_shown(false)).await;
    let tunnel = TcpStream::connect(demo.address).await.unwrap();
    browser.wait_for(&is_shown(true)).await;
    drop(tunnel);
    browser.wait_for(&is_shown(false)).await;
    browser.expect_fit().await;

    browser.forbid_scripts().await;
    browser.open(&page).await;
    browser
        .wait_for("document.body.innerText.includes('demo-gateway')")
        .await;
    browser.expect_fit().await;
    assert!(demo.end_by("INT").await.success());
}

/// The real client of an operator, over HTTPS and a WebSocket with TLS.
#[tokio::test]
async fn lets_the_operators_own_client_in() {
    let server = Sshd::start("c8ylp").await;
    let target = server.address.to_string();
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0", "--target", &target]).await;
    let ssh = server.ssh("$PORT");
    let ssh: Vec<_> = ssh.as_std().get_args().collect();
    for (password, code, words) in [
        ("operator-password", 7, "over the operator's client"),
        // Not taken: it asks for another password, and is not to ask.
        ("not-the-password", 2, ""),
    ] {
        let mut client = c8ylp(&demo.line_of("c8ylp"), password, &server.folder);
        client.arg("ssh").args(&ssh);
        client.arg("echo over the operator\\'s client; exit 7");
        let output = timeout(LIMIT, client.output()).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(told.contains(words), "{output:?}");
    }
    assert!(demo.end_by("INT").await.success());
    assert_eq!(demo.told.last().unwrap(), "done, tunnels: 1");
}

/// Makes the line that the demo shows for a server into one for a command, at a free port.
fn c8ylp(line: &str, password: &str, folder: &Folder) -> Command {
    let target = std::env::current_exe().unwrap();
    let program = target.ancestors().nth(3).unwrap().join("c8ylp/bin/c8ylp");
    assert!(program.exists(), "tests/run makes {}", program.display());
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(
        words[..3],
        ["C8Y_PASSWORD=operator-password", "c8ylp", "server"]
    );
    let port = words.iter().position(|word| *word == "--port").unwrap();
    let mut command = Command::new(program);
    command
        .args(["plugin", "command"])
        .args(&words[3..port])
        .args(&words[port + 2..])
        .args(["--port", "0", "--disable-prompts", "--"])
        .env("C8Y_PASSWORD", password)
        .env("C8YLP_LOG_DIR", folder.0.join("log"))
        .env("HOME", &folder.0)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

#[tokio::test]
async fn says_what_to_do_when_it_cannot_start() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken
        .local_addr()
        .map(|address| (taken, address.to_string()))
        .unwrap();
    for (arguments, code, words) in [
        (
            ["--listen", taken.1.as_str()],
            1,
            "is taken by another program; choose another port with --listen",
        ),
        (
            ["--target", "plc-7"],
            2,
            "'plc-7' is neither HOST:PORT nor [IPv6]:PORT",
        ),
        (["--target", "169.254.169.254:80"], 1, "link-local"),
    ] {
        let output = timeout(LIMIT, demo(&arguments).output())
            .await
            .unwrap()
            .unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {complaint}"
        );
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
    }
}

#[tokio::test]
async fn carries_ssh_and_scp() {
    let server = Sshd::start("ssh").await;
    let target = server.address.to_string();
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0", "--target", &target]).await;
    let port = demo.address.port().to_string();

    let command = server.ssh(&port).arg("echo $((6 * 7)); exit 3").output();
    let output = timeout(LIMIT, command).await.unwrap().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "42\n",
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(3));

    let content: Vec<u8> = (0..COPY_SIZE)
        .map(|i| ((i * i) >> 7) as u8 ^ i as u8)
        .collect();
    let [sent, there, back] = ["sent", "there", "back"].map(|name| server.folder.0.join(name));
    fs::write(&sent, &content).unwrap();
    let remote = format!("{}@127.0.0.1:{}", server.user, there.display());
    for (from, to) in [
        (path(&sent), remote.as_str()),
        (remote.as_str(), path(&back)),
    ] {
        let copy = server.scp(&port).args([from, to]).output();
        let output = timeout(LIMIT, copy).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert!(fs::read(&there).unwrap() == content, "differs there");
    assert!(fs::read(&back).unwrap() == content, "differs back here");

    let mut session = server.ssh(&port);
    let mut session = session.arg("-tt").stdin(Stdio::piped()).spawn().unwrap();
    let mut keyboard = session.stdin.take().unwrap();
    let mut screen = Screen {
        output: session.stdout.take().unwrap(),
        text: String::new(),
    };
    // What is waited for differs from what is typed, because the terminal echoes that.
    for (typed, shown) in [
        ("PS1=; tty | tr a-z A-Z\n", "/DEV/PTS/"),
        (
            "sh -c 'echo $((40 + 1)) sleeps; exec sleep 1000'\n",
            "41 sleeps",
        ),
        // Ctrl-C goes through the terminal to what runs there, and not to the session.
        ("\x03", "^C"),
        ("echo $((40 + 2)) goes on\n", "42 goes on"),
        ("exit 5\n", ""),
    ] {
        keyboard.write_all(typed.as_bytes()).await.unwrap();
        screen.wait_for(shown).await;
    }
    let ended = timeout(LIMIT, session.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(5), "{}", screen.text);

    assert!(demo.end_by("INT").await.success());
    assert_eq!(demo.told.last().unwrap(), "done, tunnels: 4");
}

/// What an interactive session shows.
struct Screen {
    output: ChildStdout,
    text: String,
}

impl Screen {
    async fn wait_for(&mut self, words: &str) {
        let found = timeout(LIMIT, async {
            while !self.text.contains(words) {
                let mut bytes = [0; 4096];
                let count = self.output.read(&mut bytes).await.unwrap();
                assert_ne!(count, 0, "the session has ended: {}", self.text);
                self.text
                    .push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let found = found.await.is_ok();
        assert!(found, "no {words:?} in {}", self.text);
    }
}

/// An SSH server of the test's own, which lets in the present user with a fresh key.
struct Sshd {
    _child: Child,
    folder: Folder,
    address: SocketAddr,
    user: String,
}

impl Sshd {
    /// Starts one in a folder of this name.
    async fn start(name: &str) -> Self {
        let folder = Folder::new(name);
        for key in ["host", "user"] {
            let file = folder.0.join(key);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", path(&file)]);
            assert!(
                timeout(LIMIT, keygen.status())
                    .await
                    .unwrap()
                    .unwrap()
                    .success()
            );
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let home = path(&folder.0);
        let config = format!(
            "ListenAddress {address}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        );
        let config_file = folder.0.join("sshd_config");
        fs::write(&config_file, config).unwrap();
        // Where root starts it, it insists on a place to lock itself into.
        let _ = fs::create_dir("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f", path(&config_file)])
            .kill_on_drop(true);
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssh-server is missing");
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let listens = timeout(LIMIT, async {
            let mut told = Vec::new();
            while let Some(line) = log.next_line().await.unwrap() {
                if line.contains("Server listening") {
                    return;
                }
                told.push(line);
            }
            panic!("sshd does not start: {told:#?}");
        });
        listens.await.unwrap();
        // What it says later is of no interest, but must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let user = timeout(LIMIT, Command::new("id").arg("-un").output())
            .await
            .unwrap()
            .unwrap();
        let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
        Self {
            _child: child,
            folder,
            address,
            user,
        }
    }

    fn ssh(&self, port: &str) -> Command {
        let mut command = self.client("ssh");
        command.args(["-p", port, "-l", &self.user, "127.0.0.1"]);
        command
    }

    fn scp(&self, port: &str) -> Command {
        let mut command = self.client("scp");
        command.args(["-P", port]);
        command
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let key = self.folder.0.join("user");
        command.args([
            "-F",
            "none",
            "-i",
            path(&key),
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        command.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("adit-demo-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
