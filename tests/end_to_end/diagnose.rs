//! `adit diagnose`: one archive that says all and holds no secret, whatever state the gateway is in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{
    Adit, Directory, LIMIT, Lan, Login, Site, SiteOptions, Surroundings, Watcher, command_in,
};

/// What the archive has to hold.
const FILES: [&str; 11] = [
    "README.txt",
    "check.json",
    "check.txt",
    "configuration.txt",
    "limits.txt",
    "log.txt",
    "metrics.txt",
    "resolver.txt",
    "routes.txt",
    "status.json",
    "versions.txt",
];

/// Another agent may run on this machine.
const NO_AGENT: (&str, &str) = ("ADIT_ADMIN_SOCKET", "/nowhere/adit.sock");

/// What `adit diagnose` has said and done.
struct Diagnosed {
    code: Option<i32>,
    result: Vec<u8>,
    said: String,
}

/// Runs it in a directory with a configuration there.
async fn diagnose(
    directory: &Directory,
    config: &str,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> Diagnosed {
    let file = directory.write("adit.toml", config);
    let surroundings = Surroundings {
        variables,
        ..Surroundings::default()
    };
    let command = command_in(&surroundings, "diagnose", &file);
    let output = tokio::process::Command::from(command)
        .args(arguments)
        .current_dir(directory.path(""))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(2 * LIMIT, output).await.expect("in time").unwrap();
    Diagnosed {
        code: output.status.code(),
        result: output.stdout,
        said: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What the system's own programs take out of an archive, by name.
fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).arg(archive).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    };
    run("gzip", &["-t"]);
    let names = run("tar", &["tzf"]);
    let directory = Directory::new();
    let into = directory.path("");
    run("tar", &["xz", "-C", into.to_str().unwrap(), "-f"]);
    let file = |name: &str| {
        let text = fs::read_to_string(directory.path(name)).unwrap();
        (name.rsplit('/').next().unwrap().to_owned(), text)
    };
    names.lines().map(file).collect()
}

fn assert_hidden(files: &BTreeMap<String, String>, secrets: &[&str]) {
    for (name, text) in files {
        let text = text.to_lowercase();
        for secret in secrets {
            for form in [(*secret).to_owned(), STANDARD.encode(secret)] {
                let is_shown = text.contains(&form.to_lowercase());
                assert!(!is_shown, "{name} holds {form}:\n{text}");
            }
        }
    }
}

/// A running adit, with what asks it, and a configuration that finds it.
async fn running(site: &Site, settings: &[&str]) -> (Adit, Watcher, String) {
    let watcher = Watcher::new();
    let setting = watcher.setting();
    let settings: Vec<_> = settings.iter().copied().chain([setting.as_str()]).collect();
    let adit = site.adit(&settings).await;
    let config = format!(
        "{}[admin]\nsocket = {:?}\n",
        site.config(),
        watcher.socket()
    );
    (adit, watcher, config)
}

/// The archives of a directory.
fn archives(directory: &Directory) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path("")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "gz"))
        .collect()
}

#[tokio::test]
async fn packs_all_that_a_ticket_needs_and_no_secret() {
    let site = Site::new().await;
    let (adit, _watcher, config) = running(&site, &[]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let denied = site.request("198.51.100.7", 22);
    site.failed(denied.operation).await;
    adit.wait_for_log("did not open").await;

    let directory = Directory::new();
    let diagnosed = diagnose(&directory, &config, &[], &[]).await;
    assert_eq!(diagnosed.code, Some(0), "{}", diagnosed.said);
    let [archive] = archives(&directory).try_into().unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        name.starts_with(&format!("adit-diagnose-{}-20", site.gateway)),
        "{name}"
    );
    assert_eq!(
        String::from_utf8(diagnosed.result).unwrap(),
        format!("{name}\n")
    );
    let mode = archive.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let files = unpacked(&archive);
    assert!(files.keys().eq(FILES), "{:?}", files.keys());

    let (user, password) = site.user();
    assert_hidden(&files, &[&password, &format!("{user}:{password}")]);
    let configuration = &files["configuration.txt"];
    assert!(
        configuration.contains("auth.password = <set>    # "),
        "{configuration}"
    );
    assert!(configuration.contains(&format!("mqtt.url = {:?}", site.mqtt_url())));
    let check: Value = serde_json::from_str(&files["check.json"]).unwrap();
    assert_eq!(check["ok"], true, "{check:#}");
    assert!(files["check.txt"].contains("✓ MQTT login: the adit that runs is connected"));
    assert!(files["check.txt"].contains("✓ WebSocket endpoint: "));
    let status: Value = serde_json::from_str(&files["status.json"]).unwrap();
    assert_eq!(status["agent"]["process_id"], adit.process_id());
    assert_eq!(status["tunnels"][0]["up_bytes"], 5);
    assert!(files["metrics.txt"].contains("\nadit_mqtt_connected 1.0\n"));
    assert!(files["metrics.txt"].ends_with("# EOF\n"));
    assert!(files["log.txt"].contains(" INFO adit is starting version="));
    assert!(files["log.txt"].contains("did not open"));
    assert!(files["versions.txt"].starts_with(concat!("adit ", env!("CARGO_PKG_VERSION"))));
    assert!(files["versions.txt"].contains("== /proc/sys/kernel/osrelease\n"));
    let agent_limits = format!("== /proc/{}/limits\n", adit.process_id());
    assert!(files["limits.txt"].contains(&agent_limits));
    assert_eq!(files["limits.txt"].matches("Max open files").count(), 2);
    assert!(files["routes.txt"].contains("== /proc/net/route\nIface"));
    assert!(files["resolver.txt"].contains("== /etc/resolv.conf\n"));
    for name in FILES.iter().filter(|name| **name != "README.txt") {
        assert!(
            files["README.txt"].contains(&format!("\n{name} ")),
            "{name}"
        );
    }

    // Nobody was thrown out.
    far_end.echo("still").await;
    assert!(!adit.log().contains("connection to the broker lost"));
}

#[tokio::test]
async fn works_without_an_agent_and_with_a_bad_configuration() {
    const SECRETS: [&str; 10] = [
        "of-the-user-81",
        "of-the-broker-82",
        "of-bootstrap-83",
        "once-only-84",
        "of-the-admin-token-85",
        "of-the/proxy-86",
        "of-https-proxy-87",
        "in-a-variable-88",
        "in-a-file-89",
        "on-the-command-line-90",
    ];
    let directory = Directory::new();
    let token = directory.write("token", SECRETS[4]);
    let password = directory.write("password", &format!("{}\n", SECRETS[8]));
    let good = "[cloud]\nurl = \"https://127.0.0.1:1\"\n";
    let bad = format!(
        "{good}proxy = \"http://u:of-the%2Fproxy-86@127.0.0.1:1\"\n\
         [mqtt]\nusername = \"local\"\npassword = {:?}\n\
         [auth]\ntenant = \"t1\"\nusername = \"u\"\npassword = {:?}\npassword_file = {password:?}\n\
         bootstrap_username = \"b\"\nbootstrap_password = {:?}\none_time_password = {:?}\n\
         [admin]\nsocket = \"/nowhere/adit.sock\"\nlisten = \"0.0.0.0:1\"\ntoken_file = {token:?}\n",
        SECRETS[1], SECRETS[0], SECRETS[2], SECRETS[3]
    );
    let proxy = format!("http://v:{}@127.0.0.1:2", SECRETS[6]);
    let variables = [
        NO_AGENT,
        ("ADIT_AUTH_PASSWORD", SECRETS[7]),
        ("https_proxy", proxy.as_str()),
    ];
    let setting = format!("auth.password={}", SECRETS[9]);
    let no_toml = format!("[auth]\npassword = {:?}\n[cloud", SECRETS[0]);
    for (number, (config, fault)) in [
        (bad.as_str(), "it cannot be used:"),
        (&no_toml, "it cannot be used:"),
        ("", "cloud.url: is not set"),
    ]
    .into_iter()
    .enumerate()
    {
        let archive = format!("{number}.tar.gz");
        let arguments = ["-o", &archive, "--set", &setting];
        let diagnosed = diagnose(&directory, config, &variables, &arguments).await;
        assert_eq!(diagnosed.code, Some(0), "{}", diagnosed.said);
        let files = unpacked(&directory.path(&archive));
        assert!(files.keys().eq(FILES), "{:?}", files.keys());
        assert_hidden(&files, &SECRETS);
        assert_hidden(&files, &["of-the%2Fproxy-86"]);
        for secret in SECRETS {
            assert!(!diagnosed.said.contains(secret), "{}", diagnosed.said);
        }
        let configuration = &files["configuration.txt"];
        assert!(configuration.contains(fault), "{configuration}");
        let check: Value = serde_json::from_str(&files["check.json"]).unwrap();
        assert_eq!(check["hops"][0]["outcome"], "failed");
        assert!(files["check.txt"].starts_with("✗ configuration: "));
        assert!(
            files["log.txt"].starts_with("not there: "),
            "{}",
            files["log.txt"]
        );
        assert!(files["status.json"].starts_with("{\"error\":"));
        assert!(files["limits.txt"].contains("Max open files"));
    }
    let files = unpacked(&directory.path("0.tar.gz"));
    for line in [
        "mqtt.password = <set>    # ",
        "cloud.proxy = \"<set>@127.0.0.1:1\"    # ",
        "https_proxy = \"<set>@127.0.0.1:2\"",
        "auth.password = <set>    # ADIT_AUTH_PASSWORD",
    ] {
        let configuration = &files["configuration.txt"];
        assert!(configuration.contains(line), "{line}\n{configuration}");
    }
}

#[tokio::test]
async fn refuses_to_write_what_holds_a_secret() {
    let site = Site::new().await;
    let (adit, _watcher, config) = running(&site, &[]).await;
    // What somebody asks for stands in the log and in the status.
    let password = "hunter2-of-plc-7";
    let basic = STANDARD
        .encode(format!("t1/user:{password}"))
        .replace('=', "");
    for host in [password, &basic] {
        let denied = site.request(host, 22);
        site.failed(denied.operation).await;
    }
    adit.wait_for_logs(2, "did not open").await;
    let own = format!("password = {:?}", site.user().1);
    for config in [
        config.replace(&own, &format!("password = {password:?}")),
        // Somebody else's in the same environment.
        config.replace(
            "[cloud]\n",
            &format!("[cloud]\nproxy = \"http://u:{password}@h:1\"\n"),
        ),
    ] {
        let directory = Directory::new();
        let diagnosed = diagnose(&directory, &config, &[], &["-o", "x.tar.gz"]).await;
        assert_eq!(diagnosed.code, Some(1), "{}", diagnosed.said);
        assert!(diagnosed.result.is_empty());
        for file in ["log.txt", "status.json"] {
            let line = format!("{file} would hold a secret: ");
            assert!(diagnosed.said.contains(&line), "{}", diagnosed.said);
        }
        let named = ["auth.password\n", "cloud.proxy\n"];
        assert!(named.iter().any(|name| diagnosed.said.contains(name)));
        assert!(diagnosed.said.contains("nothing is written"));
        assert!(!diagnosed.said.contains(password), "{}", diagnosed.said);
        assert!(archives(&directory).is_empty());
    }
}

#[tokio::test]
async fn leaves_out_the_password_of_the_link_where_the_gateway_waits_to_be_enrolled() {
    let options = SiteOptions {
        login: Login::Issued,
        tls: true,
        ..SiteOptions::default()
    };
    let site = Site::with(options).await;
    let watcher = Watcher::new();
    let adit = site.start_adit(&[&watcher.setting()]);
    let line = adit.wait_for_log("waiting to be enrolled").await;
    let kept = site.issued_file().with_extension("one-time-password");
    let password = fs::read_to_string(&kept).unwrap();
    assert!(line.contains(&format!("&one-time-password={password}")));
    let config = format!(
        "{}[admin]\nsocket = {:?}\n",
        site.config(),
        watcher.socket()
    );
    let directory = Directory::new();
    for archive in ["x.tar.gz", "gone.tar.gz"] {
        let diagnosed = diagnose(&directory, &config, &[], &["-o", archive]).await;
        assert_eq!(diagnosed.code, Some(0), "{}", diagnosed.said);
        let files = unpacked(&directory.path(archive));
        assert_hidden(&files, &[&password]);
        let log = &files["log.txt"];
        assert!(log.contains("&one-time-password=<set>"), "{log}");
        // Nothing but the link tells what it is from here on.
        let _ = fs::remove_file(&kept);
    }

    // A secret that was configured keeps it from being written all the same, for all that it can be.
    let config = config.replace(
        "[auth]\n",
        "[auth]\nbootstrap_password = \"/apps/devicemanagement\"\n",
    );
    let diagnosed = diagnose(&directory, &config, &[], &["-o", "y.tar.gz"]).await;
    assert_eq!(diagnosed.code, Some(1), "{}", diagnosed.said);
    let found = "log.txt would hold a secret: auth.bootstrap_password\n";
    assert!(diagnosed.said.contains(found), "{}", diagnosed.said);
}

#[tokio::test]
async fn writes_what_holds_a_password_that_is_an_ordinary_word() {
    let directory = Directory::new();
    for word in ["gateway", "adit", "8883"] {
        let config = format!(
            "[device]\nid = \"gateway-7\"\n[cloud]\nurl = \"https://127.0.0.1:1\"\n[mqtt]\n\
             url = \"mqtts://127.0.0.1:8883\"\n[auth]\ntenant = \"t1\"\nusername = \"u\"\n\
             password = {word:?}\n"
        );
        let archive = format!("{word}.tar.gz");
        let diagnosed = diagnose(&directory, &config, &[NO_AGENT], &["-o", &archive]).await;
        assert_eq!(diagnosed.code, Some(0), "{}", diagnosed.said);
        let warning = "the secret of auth.password is an ordinary word that is in every archive; \
                       choose another one\n";
        assert!(diagnosed.said.contains(warning), "{}", diagnosed.said);
        // Nothing in it tells which word that is.
        let files = unpacked(&directory.path(&archive));
        let configuration = &files["configuration.txt"];
        assert!(configuration.contains("device.id = \"gateway-7\""));
        assert!(configuration.contains("auth.password = <set>"));
        assert!(
            files
                .values()
                .all(|text| !text.contains("ordinary word that"))
        );
    }
}

#[tokio::test]
async fn replaces_no_file_unless_it_is_told_to() {
    let directory = Directory::new();
    let path = directory.write("x.tar.gz", "precious");
    let diagnosed = diagnose(&directory, "", &[NO_AGENT], &["-o", "x.tar.gz"]).await;
    assert_eq!(diagnosed.code, Some(1));
    assert_eq!(diagnosed.said, "x.tar.gz is there: --force replaces it\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let forced = diagnose(&directory, "", &[NO_AGENT], &["-o", "x.tar.gz", "--force"]).await;
    assert_eq!(forced.code, Some(0), "{}", forced.said);
    assert_eq!(unpacked(&path).len(), FILES.len());

    let nowhere = diagnose(&directory, "", &[NO_AGENT], &["-o", "none/x.tar.gz"]).await;
    assert_eq!(nowhere.code, Some(1));
    assert!(
        nowhere
            .said
            .ends_with("cannot write none/x.tar.gz: no such file or directory\n")
    );

    // As from a container, where nothing can be written.
    let standard = diagnose(&directory, "", &[NO_AGENT], &["-o", "-"]).await;
    assert_eq!(standard.code, Some(0), "{}", standard.said);
    let path = directory.path("standard.tar.gz");
    fs::write(&path, standard.result).unwrap();
    assert_eq!(unpacked(&path).len(), FILES.len());
}
