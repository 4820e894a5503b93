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
