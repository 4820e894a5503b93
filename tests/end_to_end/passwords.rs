//! A password in a file is renewed by somebody else while adit runs.

use std::fs;
use std::path::PathBuf;

use crate::support::{Adit, Lan, Site};

/// Starts adit with its password in a file, and returns the file.
async fn start(site: &Site) -> (Adit, PathBuf) {
    let (_, password) = site.user();
    let file = site.device_directory().write("password", &password);
    let given = format!("password = {password:?}");
    let config = site.config();
    assert!(config.contains(&given), "{config}");
    let config = config.replace(&given, &format!("password_file = {file:?}"));
    let adit = Adit::start(&config, &[]).ready().await;
    site.wait_for_rows(1, "500").await;
    (adit, file)
}

#[tokio::test]
async fn logs_in_with_the_password_that_its_file_holds_by_then() {
    let mut site = Site::new().await;
    let (adit, _) = start(&site).await;
    let (user, password) = site.user();
    let renewed = "renewed-secret-7f".to_owned();
    site.device_directory().write("password", &renewed);
    // Whoever has another password than before is thrown out.
    site.set_users(&[&(user, renewed.clone())]);
    adit.wait_for_logs(2, "connected to the broker").await;
    site.wait_for_rows(2, "500").await;

    // The platform, unlike its broker, still takes the old one only.
    let lan = Lan::echo().await;
    let request = site.request("127.0.0.1", lan.port);
    let reason = site.failed(request.operation).await;
    assert!(reason.contains("HTTP 401"), "{reason}");
    site.device_directory().write("password", &password);
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    adit.wait_for_logs(2, "the password has been renewed").await;
    for secret in [password, renewed] {
        assert!(!adit.log().contains(&secret), "{secret} stands in the log");
    }
}

#[tokio::test]
async fn goes_on_with_the_last_password_where_its_file_is_gone() {
    let mut site = Site::new().await;
    let (adit, file) = start(&site).await;
    fs::remove_file(&file).unwrap();
    site.broker.kill();
    site.broker.restart().await;
    site.wait_for_rows(2, "500").await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
    let log = adit.log();
    let warning = "the password cannot be read again; the last one goes on";
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(warning)).collect();
    let [warning] = warnings[..] else {
        panic!("not once: {warnings:?}")
    };
    assert!(warning.contains(" WARN "), "{warning}");
    assert!(warning.contains(&format!("file={:?}", file.display().to_string())));
}
