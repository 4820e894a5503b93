//! A configuration that cannot be used is refused with all that is wrong with it.

use std::process::Command;

use tokio::time::timeout;

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

#[tokio::test]
async fn goes_on_with_a_warning_where_one_is_enough() {
    let site = Site::new().await;
    let adit = site.adit(&["cloud.url=http://cloud.example.com"]).await;
    let log = adit.log();
    let warning = "without TLS, everybody on the way to cloud.example.com can read the password";
    assert!(log.contains(warning), "{log}");
}
