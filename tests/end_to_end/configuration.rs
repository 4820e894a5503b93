//! A configuration that cannot be used is refused with all that is wrong with it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::time::timeout;

use crate::support::process::Process;
use crate::support::{Directory, LIMIT, Site, command, refused_configuration};

const GOOD: &str = "[cloud]\nurl = \"https://tenant.example.com\"\n\
                    [auth]\ntenant = \"t1\"\nusername = \"u\"\npassword = \"hunter2\"\n";

#[tokio::test]
async fn refuses_a_bad_configuration_with_all_its_faults_and_no_secret() {
    for (file, settings, complaints) in [
        (
            format!(
                "{GOOD}tokens = 7\n[remote_access]\nconnect_timeout = \"10 parsecs\"\n\
                 max_tunnels = 0\nallow = [\"10.0.0.5/24\"]\n"
            ),
            vec!["mqtt.keep_alive=soon"],
            vec![
                "FILE, line 7, auth.tokens:",
                "FILE, line 9, remote_access.connect_timeout: \"10 parsecs\" is not a duration \
                 such as \"15s\" or \"2m\"",
                "FILE, line 10, remote_access.max_tunnels:",
                "FILE, line 11, remote_access.allow:",
                "--set mqtt.keep_alive: \"soon\" is not a duration such as \"15s\" or \"2m\"",
            ],
        ),
        (
            String::new(),
            vec![],
            vec!["cloud.url:", "auth.username:", "auth.password:"],
        ),
        (
            GOOD.replace("[auth]", "[auth"),
            vec![],
            vec!["FILE, line 3, column"],
        ),
        (
            GOOD.to_owned(),
            vec![
                "cloud.ca_file=/nowhere/ca.pem",
                "mqtt.url=mqtt://a:hunter2@broker",
            ],
            vec!["--set cloud.ca_file:", "--set mqtt.url:"],
        ),
    ] {
        let (code, said) = refused_configuration(&file, &settings).await;
        assert_eq!(code, Some(2), "{said}");
        let lines: Vec<_> = said.lines().collect();
        for complaint in &complaints {
            assert!(
                lines.iter().any(|line| line.starts_with(complaint)),
                "{complaint}\n{said}"
            );
        }
        assert_eq!(lines.len(), complaints.len(), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn refuses_to_wait_for_what_is_no_regular_file() {
    let directory = Directory::new();
    let pipe = directory.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let shown = pipe.display();
    let words = "cannot be read: it is a pipe, and only regular files are read";
    let setting = format!("auth.password_file={shown}");
    let good = GOOD.replace("password = \"hunter2\"\n", "");
    let (code, said) = refused_configuration(&good, &[&setting]).await;
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(
        said,
        format!("--set auth.password_file: \"{shown}\" {words}")
    );
    let run = tokio::process::Command::from(command("run", &pipe))
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, run).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, format!("{shown}: {words}\n"));
}

/// Makes whoever opens a file wait, as a disk that hangs does. Dropping it lets them go on.
struct Hung(Child);

impl Hung {
    fn new(file: &Path) -> Self {
        // A lease (fcntl(2)), which the system takes away after 45 seconds. No crate of the tests
        // knows how to take one.
        const LEASE: &str = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '+<', $ARGV[0]) or die; \
                             fcntl(F, 1024, 1) or die $!; print qq(held\\n); <STDIN>";
        let mut holder = Command::new("perl")
            .args(["-e", LEASE])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let said = holder.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(holder)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn says_that_it_waits_for_the_disk_and_not_for_ever() {
    const WAITS: &str = "still waiting for the disk to give a file file=";
    const WORDS: &str = "cannot be read: the disk does not answer (not within 15s); look at the disk, \
                         or whether the server that it is on can be reached";
    let directory = Directory::new();
    let good = GOOD.replace("password = \"hunter2\"\n", "");
    let file = directory.write("adit.toml", &good);
    let password = directory.write("password", "hunter2");
    let shown = |path: &Path| format!("{WAITS}{:?}", path.display().to_string());

    // A disk that is slow is waited for.
    let hung = Hung::new(&file);
    let mut slow = Process::start("adit", &mut command("run", &file));
    assert!(slow.find_line(1, &shown(&file)).await.is_some());
    drop(hung);
    assert_eq!(slow.wait_for_exit(LIMIT).await.code(), Some(2));
    let said = slow.lines().join("\n");
    assert!(said.contains("auth.password: is not set"), "{said}");

    let other = directory.write("other.toml", &good);
    let _hung = [Hung::new(&other), Hung::new(&password)];
    let mut whole = Process::start("adit", &mut command("run", &other));
    let setting = format!("auth.password_file={}", password.display());
    let mut secret = Process::start("adit", command("run", &file).args(["--set", &setting]));
    for (process, path, place) in [
        (&mut whole, &other, format!("{}:", other.display())),
        (
            &mut secret,
            &password,
            format!(
                "--set auth.password_file: {:?}",
                password.display().to_string()
            ),
        ),
    ] {
        assert_eq!(process.wait_for_exit(LIMIT).await.code(), Some(2));
        let [waits, fault] = &process.lines()[..] else {
            panic!("{:?}", process.lines());
        };
        assert!(waits.ends_with(&shown(path)), "{waits}");
        assert_eq!(fault, &format!("{place} {WORDS}"));
    }
}

#[tokio::test]
async fn goes_on_with_a_warning_where_one_is_enough() {
    let site = Site::new().await;
    let adit = site.adit(&["cloud.url=http://cloud.example.com"]).await;
    let log = adit.log();
    let warning = "without TLS, everybody on the way to cloud.example.com can read the password";
    assert!(log.contains(warning), "{log}");
}
