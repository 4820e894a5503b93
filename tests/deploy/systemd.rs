//! The unit for systemd: what it promises, and that adit can keep it.

use crate::support::read;

fn settings() -> Vec<(String, String)> {
    let unit = read("deploy/systemd/adit.service");
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn values<'a>(settings: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    let of_key = settings.iter().filter(|(name, _)| name == key);
    of_key.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn leaves_no_core_with_secrets_behind() {
    assert_eq!(values(&settings(), "LimitCORE"), ["0"]);
}

#[test]
fn starts_adit_again_whatever_it_ended_with() {
    let settings = settings();
    assert_eq!(values(&settings, "Restart"), ["always"]);
    assert_eq!(values(&settings, "StartLimitIntervalSec"), ["0"]);
    // A file that is missing for a moment is a bad configuration too.
    assert!(values(&settings, "RestartPreventExitStatus").is_empty());
}

#[test]
fn lets_adit_confine_itself() {
    let settings = settings();
    let filters = values(&settings, "SystemCallFilter").join("\n");
    let allowed = filters.lines().filter(|filter| !filter.starts_with('~'));
    let allowed: Vec<_> = allowed.flat_map(|filter| filter.split(' ')).collect();
    for call in ["create_ruleset", "add_rule", "restrict_self"] {
        let call = format!("landlock_{call}");
        assert!(allowed.contains(&call.as_str()), "{filters}");
    }
}

#[test]
fn is_told_when_adit_is_ready_and_asks_it_to_reload() {
    let settings = settings();
    assert_eq!(values(&settings, "Type"), ["notify"]);
    assert_eq!(values(&settings, "WatchdogSec"), ["2min"]);
    assert_eq!(values(&settings, "ExecReload"), ["/usr/bin/adit reload"]);
    let families = values(&settings, "RestrictAddressFamilies").join(" ");
    assert!(families.contains("AF_UNIX"), "{families}");
}
