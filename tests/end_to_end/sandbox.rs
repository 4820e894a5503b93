//! What adit may not do to its machine, even as root.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::process::{Process, command};
use crate::support::{
    Adit, Directory, Login, NO_SANDBOX, Site, SiteOptions, Surroundings, check, refusing_port,
};

/// Adit with its sandbox, and without.
const SANDBOXES: [&[(&str, &str)]; 2] = [&[], &[NO_SANDBOX]];

fn start(variables: &[(&str, &str)], config: &str) -> Adit {
    let surroundings = Surroundings {
        variables,
        ..Surroundings::default()
    };
    Adit::start_in(&surroundings, config, &[])
}

#[tokio::test]
async fn says_what_confines_it() {
    let site = Site::new().await;
    let adit = site.adit(&[]).await;
    let line = adit.wait_for_log("adit is confined").await;
    assert!(line.contains(" INFO "), "{line}");
    assert!(line.contains("writes nothing"), "{line}");
    let status = fs::read_to_string(format!("/proc/{}/status", adit.process_id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");

    let checked = check(&site.config(), &[]).await;
    let words = "\n✓ confinement: Landlock ";
    assert!(checked.result.contains(words), "{}", checked.result);
}

#[tokio::test]
async fn says_that_nothing_confines_it() {
    let site = Site::new().await;
    let surroundings = Surroundings {
        variables: &[NO_SANDBOX],
        ..Surroundings::default()
    };
    let adit = site.adit_in(&surroundings, &[]).await;
    let words = "not confined, and open to debuggers, as ADIT_NO_SANDBOX says";
    let line = adit.wait_for_log(words).await;
    assert!(line.contains(" WARN "), "{line}");
    assert!(!adit.log().contains("adit is confined"), "{}", adit.log());
}

#[tokio::test]
async fn reads_no_file_where_none_is_meant_to_be_read() {
    for variables in SANDBOXES {
        let mut site = Site::new().await;
        let (_, password) = site.user();
        let directory = site.device_directory();
        let [link, first, second] = ["named", "first", "second"].map(|name| {
            fs::create_dir(directory.path(name)).unwrap();
            directory.path(name).join("password")
        });
        for file in [&first, &second] {
            fs::write(file, &password).unwrap();
        }
        symlink(&first, &link).unwrap();
        let given = format!("password = {password:?}");
        let config = site.config();
        let config = config.replace(&given, &format!("password_file = {link:?}"));
        let adit = start(variables, &config).ready().await;

        // Now it leads to where nobody has allowed anything.
        fs::remove_file(&link).unwrap();
        symlink(&second, &link).unwrap();
        fs::write(&second, "renewed-secret-7f").unwrap();
        site.broker.kill();
        site.broker.restart().await;
        if variables.is_empty() {
            let words = "the password cannot be read again; the last one goes on";
            let line = adit.wait_for_log(words).await;
            assert!(line.contains("Permission denied"), "{line}");
            adit.wait_for_logs(2, "announced and ready for operations")
                .await;
        } else {
            adit.wait_for_log("the password has been renewed").await;
        }
    }
}

#[tokio::test]
async fn writes_nowhere_but_where_it_keeps_its_credentials() {
    for variables in SANDBOXES {
        let mut site = Site::with(SiteOptions {
            login: Login::Bootstrap,
            ..SiteOptions::default()
        })
        .await;
        let [link, first, second] =
            ["kept", "first", "second"].map(|name| site.device_directory().path(name));
        for directory in [&first, &second] {
            fs::create_dir(directory).unwrap();
        }
        symlink(&first, &link).unwrap();
        let usual = format!("{:?}", site.credentials_file());
        let named = link.join("credentials.toml");
        let config = site.config().replace(&usual, &format!("{named:?}"));
        let adit = start(variables, &config);
        adit.wait_for_log("waiting to be registered").await;

        fs::remove_file(&link).unwrap();
        symlink(&second, &link).unwrap();
        let users = [site.bootstrap_user(), site.user()];
        site.set_users(&users.each_ref());
        let login = site.cloud.options().device_login.clone();
        site.cloud.accept_registration(login);
        if variables.is_empty() {
            let line = adit.wait_for_log("permission denied").await;
            let words = "the credentials are not kept: after a restart, adit must register again";
            assert!(line.contains(words), "{line}");
            assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
        } else {
            adit.wait_for_log("credentials kept").await;
            assert!(second.join("credentials.toml").is_file());
        }
    }
}

/// Ends adit as a fault does for which the system writes a core.
async fn abort(variables: &[(&str, &str)]) -> ExitStatus {
    let (directory, nobody) = (Directory::new(), refusing_port());
    let place = format!("127.0.0.1:{}", nobody.number);
    let config = format!("[cloud]\nurl = \"http://{place}\"\n[mqtt]\nurl = \"mqtt://{place}\"\n");
    let file = directory.write("adit.toml", &config);
    let mut command = command("env");
    command.arg("-i");
    for (name, value) in variables {
        command.arg(format!("{name}={value}"));
    }
    command.arg(env!("CARGO_BIN_EXE_adit"));
    command.args(["run", "--config"]).arg(file);
    // Where a core is written to, if the system writes it to a file.
    command.current_dir(directory.path("."));
    let mut process = Process::start("adit", &mut command);
    let running = process.find_line(1, "no connection to the broker").await;
    assert!(running.is_some(), "{}", process.lines().join("\n"));
    // So that it is not the limit that adit sets itself.
    let all = Rlimit {
        current: None,
        maximum: None,
    };
    let id = Pid::from_raw(process.id().try_into().unwrap());
    prlimit(id, Resource::Core, all).expect("the tests need root");
    process.signal("ABRT");
    process.wait_for_exit(Duration::from_secs(30)).await
}

#[tokio::test]
async fn leaves_no_core_behind() {
    let [with, without] = [abort(SANDBOXES[0]).await, abort(SANDBOXES[1]).await];
    for status in [with, without] {
        assert!(status.signal().is_some(), "{status}");
    }
    assert!(!with.core_dumped());
    if !without.core_dumped() {
        eprintln!("not tested: this system writes no core at all");
    }
}
