//! On what, and of what, was measured.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::SystemTime;

use crate::options::Options;
use crate::site::SUITE;

/// Names and what they are, for a list.
pub(crate) fn description(options: &Options) -> Vec<(&'static str, String)> {
    vec![
        ("date", date()),
        ("processor", processor()),
        ("memory", field("/proc/meminfo", "MemTotal:")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("agent", agent(options)),
        ("compiler", output("rustc", &["--version"])),
        ("libraries", libraries()),
        ("TLS", format!("1.3, {SUITE} for all")),
    ]
}

fn date() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let processors = available_parallelism().map_or(1, usize::from);
    let model = field("/proc/cpuinfo", "model name");
    format!("{processors} × {model}")
}

fn agent(options: &Options) -> String {
    let version = output(&options.adit.to_string_lossy(), &["--version"]);
    // Of a binary that was given nobody knows which commit it was made from.
    if options.given {
        return format!("{version}, a binary that was given");
    }
    let commit = output("git", &["describe", "--always", "--dirty"]);
    format!("{version} at {commit}")
}

/// Versions of what does most of the work.
fn libraries() -> String {
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &str| {
        let package = lock
            .split(&format!("name = \"{name}\"\nversion = \""))
            .nth(1)?;
        Some(format!("{name} {}", package.split('"').next()?))
    };
    let versions: Vec<_> = ["rustls", "ring", "tokio"]
        .into_iter()
        .filter_map(version)
        .collect();
    versions.join(", ")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.ok()
        .filter(|said| !said.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn read(file: &str) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line
        .unwrap_or("unknown")
        .trim_start_matches([' ', '\t', ':']);
    value.to_owned()
}
