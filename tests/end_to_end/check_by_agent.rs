//! `adit check --agent`: the way to the cloud as the running agent sees it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use simulated_cloud::TokenAnswer;

use crate::support::{Adit, Lan, Login, Port, Site, SiteOptions, Watcher, check};

#[tokio::test]
async fn has_the_running_agent_try_the_way_that_it_sees() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let nobody = watcher.check(&["--agent"]).await;
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert!(nobody.result.starts_with("no adit runs: "), "{nobody:?}");
    let port = Port::reserve();
    let proxy = format!("http://127.0.0.1:{}", port.number);
    let file = format!("{}[remote_access]\nmax_tunnels = 3\n", site.config());
    let adit = Adit::start(&file, &[&watcher.setting()]).ready().await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("before").await;

    let good = watcher.check(&["--agent"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    for line in [
        "✓ confinement: ",
        "✓ TCP to the broker: ",
        "✓ MQTT login: the adit that runs is connected",
        "✓ subscriptions: the adit that runs is ready for operations",
        "✓ WebSocket endpoint: reached, and the credentials are taken",
        "nothing is broken, ",
    ] {
        assert!(good.result.contains(line), "{line}\n{}", good.result);
    }
    let target = format!("127.0.0.1:{}", lan.port);
    let reached = watcher.check(&["--agent", "--target", &target]).await;
    let words = format!("✓ target: connected to {target}");
    assert!(reached.result.contains(&words), "{reached:?}");
    let denied = watcher
        .check(&["--agent", "--target", "192.0.2.1:22"])
        .await;
    assert_eq!(denied.code, Some(1), "{denied:?}");
    assert!(denied.result.contains("✗ policy: "), "{denied:?}");
    let json = watcher.check(&["--agent", "--json"]).await;
    let json: Value = serde_json::from_str(&json.result).unwrap();
    assert_eq!(json["ok"], true, "{json:#}");

    // It goes by what was read last.
    adit.write_config(&file.replace("[cloud]\n", &format!("[cloud]\nproxy = {proxy:?}\n")));
    let said = watcher.reload(&[]).await;
    assert!(said.result.contains("cloud.proxy"), "{said:?}");
    let bad = watcher.check(&["--agent"]).await;
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(
        bad.result.contains(&format!("127.0.0.1:{}", port.number)),
        "{bad:?}"
    );
    assert!(bad.result.contains("1 hop is broken"), "{bad:?}");

    far_end.echo("after").await;
    assert!(!adit.log().contains("connection to the broker lost"));
    assert!(!good.result.contains(&site.user().1));
}

#[tokio::test]
async fn warns_of_what_it_has_read_last() {
    let site = Site::new().await;
    let password = site.user().1;
    let file = site.device_directory().write("password", &password);
    let expose = |mode| fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    expose(0o644);
    let written = format!("password = {password:?}");
    let config = site
        .config()
        .replace(&written, &format!("password_file = {file:?}"));
    let watcher = Watcher::new();
    let _adit = Adit::start(&config, &[&watcher.setting()]).ready().await;
    let warning = "every user of this machine can read the password in";
    let before = watcher.check(&["--agent"]).await;
    assert!(before.result.contains(warning), "{before:?}");
    for (mode, is_exposed) in [(0o600, false), (0o644, true)] {
        expose(mode);
        let said = watcher.reload(&[]).await;
        assert!(said.result.contains("nothing has changed"), "{said:?}");
        let after = watcher.check(&["--agent"]).await;
        assert_eq!(after.result.contains(warning), is_exposed, "{after:?}");
    }
}

#[tokio::test]
async fn tells_that_the_running_agent_is_not_let_in() {
    let site = Site::new().await;
    let watcher = Watcher::new();
    let password = &site.user().1;
    let file = site.config().replace(password.as_str(), "mistyped");
    let _adit = Adit::start(&file, &[&watcher.setting()]);
    watcher
        .wait_for(|status| !status["connection"]["last_error"].is_null())
        .await;
    let words = "✗ MQTT login: the adit that runs is not connected: the broker refused";
    let by_agent = watcher.check(&["--agent"]).await;
    assert_eq!(by_agent.code, Some(1), "{by_agent:?}");
    assert!(by_agent.result.contains(words), "{by_agent:?}");
    let beside_it = check(&file, &["--no-login", "--set", &watcher.setting()]).await;
    assert!(beside_it.result.contains(words), "{}", beside_it.result);
}

#[tokio::test]
async fn takes_no_agent_that_comes_back_for_a_fault() {
    let site = Site::with(SiteOptions {
        login: Login::LocalUser,
        ..SiteOptions::default()
    })
    .await;
    site.cloud.answer_token_requests(TokenAnswer::Silence);
    let watcher = Watcher::new();
    let _adit = site.adit(&[&watcher.setting()]).await;
    let beside_it = check(&site.config(), &["--set", &watcher.setting()]).await;
    let words = "the adit that runs has come back and thrown this check out";
    assert!(beside_it.result.contains(words), "{}", beside_it.result);
    assert_eq!(beside_it.code, Some(0), "{}", beside_it.result);
}
