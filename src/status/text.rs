//! A snapshot as people read it, in lines of at most [`WIDTH`] characters.
//!
//! Names come from outside, so what could move a cursor is taken out of them.

use std::fmt::Write;

use crate::state::Snapshot;
use crate::state::snapshot::{Operation, OperationResult, Phase, Predecessor, Tunnel, TunnelState};
use crate::words::{brief, legible, sized};

/// Characters of a line at most: the narrowest terminal that is usual.
const WIDTH: usize = 80;
/// Operations that are shown; `--json` has them all.
const OPERATIONS: usize = 10;
/// Characters before text that goes on from the line above.
const INDENT: usize = 2;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";

/// How the text may look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) has_colour: bool,
}

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        match self.has_colour {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Words a snapshot.
pub(super) fn of(snapshot: &Snapshot, style: Style) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write_all(snapshot, style, &mut text);
    text
}

fn write_all(snapshot: &Snapshot, style: Style, out: &mut String) -> std::fmt::Result {
    let agent = &snapshot.agent;
    let phase = match agent.phase {
        Phase::Running => "",
        Phase::Registering => ", waiting for the platform to accept this device",
        Phase::Stopping => ", stopping",
    };
    let head = format!(
        "adit {}, process {}, up for {}{phase}",
        legible(&agent.version),
        agent.process_id,
        brief(agent.uptime_s)
    );
    writeln!(out, "{}", cut(&head, WIDTH))?;
    write_connection(snapshot, style, out)?;
    let device = &snapshot.device;
    let children = match device.children.len() {
        0 => String::new(),
        1 => ", 1 child".to_owned(),
        count => format!(", {count} children"),
    };
    fact(out, "device", &format!("{}{children}", legible(&device.id)))?;
    fact(out, "cloud", &legible(&snapshot.connection.cloud))?;
    fact(out, "login", &login(snapshot))?;
    fact(out, "policy", &legible(&snapshot.remote_access.policy))?;
    let totals = &snapshot.totals;
    let failed: u64 = totals.operations_failed.values().sum();
    let carried = format!(
        "{} opened, {failed} failed; {} to the cloud, {} to devices",
        totals.operations_successful,
        sized(totals.up_bytes),
        sized(totals.down_bytes)
    );
    fact(out, "so far", &carried)?;
    write_tunnels(snapshot, style, out)?;
    let mut before = snapshot.predecessor.as_deref();
    while let Some(predecessor) = before {
        write_predecessor(predecessor, style, out)?;
        before = predecessor.predecessor.as_deref();
    }
    write_operations(snapshot, style, out)
}

fn write_connection(snapshot: &Snapshot, style: Style, out: &mut String) -> std::fmt::Result {
    let connection = &snapshot.connection;
    let (colour, word) = match (connection.is_connected, connection.is_ready) {
        (true, true) => (GREEN, "connected"),
        (true, false) => (YELLOW, "connected, not ready"),
        (false, _) => (RED, "not connected"),
    };
    let rest = format!(
        " to {} for {}",
        legible(&connection.broker),
        brief(connection.since_s)
    );
    let rest = cut(&rest, WIDTH - INDENT - word.len());
    writeln!(out, "  {}{rest}", style.paint(colour, word))?;
    if let Some(error) = &connection.last_error {
        let words = format!("{} ago: {}", brief(error.age_s), legible(&error.reason));
        fact(out, "error", &words)?;
    }
    if !connection.unknown_templates.is_empty() {
        let ids = legible(&connection.unknown_templates.join(", "));
        fact(out, "old", &format!("the platform knows no template {ids}"))?;
    }
    match connection.unsent_messages {
        0 => {}
        1 => fact(out, "unsent", "one message waits for the broker")?,
        count => fact(
            out,
            "unsent",
            &format!("{count} messages wait for the broker"),
        )?,
    }
    Ok(())
}

fn login(snapshot: &Snapshot) -> String {
    let authentication = &snapshot.authentication;
    let mut words = match authentication.kind.as_str() {
        "none" => "none, the broker vouches for it".to_owned(),
        kind => legible(kind),
    };
    let (at, left) = (
        &authentication.certificate_expires_at,
        authentication.certificate_left_s,
    );
    if let (Some(at), Some(left)) = (at, left) {
        let day = at.split('T').next().unwrap_or_default();
        let _ = match left >= 0.0 {
            true => write!(words, ", expires {} (in {})", legible(day), brief(left)),
            false => write!(words, ", expired {} ({} ago)", legible(day), brief(-left)),
        };
    }
    if let Some(age) = authentication.token_age_s {
        let _ = write!(words, "; token {} old", brief(age));
    }
    words
}

fn write_tunnels(snapshot: &Snapshot, style: Style, out: &mut String) -> std::fmt::Result {
    let (open, limit) = (snapshot.tunnels.len(), snapshot.remote_access.max_tunnels);
    let title = format!("tunnels: {open} of {limit}");
    writeln!(out, "\n{}", style.paint(BOLD, &title))?;
    write_table(&snapshot.tunnels, out)
}

/// What a process before this one still carries.
fn write_predecessor(
    predecessor: &Predecessor,
    style: Style,
    out: &mut String,
) -> std::fmt::Result {
    let until = match predecessor.ends_in_s {
        Some(left) => format!("for {} at most", brief(left)),
        None => "until they end".to_owned(),
    };
    let title = format!(
        "tunnels of process {} before it (adit {}): {}, {until}",
        predecessor.process_id,
        legible(&predecessor.version),
        predecessor.tunnels.len()
    );
    writeln!(out, "\n{}", style.paint(BOLD, &cut(&title, WIDTH)))?;
    write_table(&predecessor.tunnels, out)
}

fn write_table(tunnels: &[Tunnel], out: &mut String) -> std::fmt::Result {
    if tunnels.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{:>6} {:<27} {:<7} {:>6} {:>7} {:>7} {:>7} {:>6}",
        "id", "target", "state", "age", "up", "down", "B/s", "idle"
    )?;
    for tunnel in tunnels {
        writeln!(out, "{}", tunnel_line(tunnel))?;
    }
    Ok(())
}

fn tunnel_line(tunnel: &Tunnel) -> String {
    let state = match tunnel.state {
        TunnelState::Opening => "opening",
        TunnelState::Open => "open",
        TunnelState::Ending => "ending",
    };
    let rate = tunnel
        .up_bytes_per_s
        .saturating_add(tunnel.down_bytes_per_s);
    let line = format!(
        "{:>6} {:<27} {state:<7} {:>6} {:>7} {:>7} {:>7} {:>6}",
        tunnel.id,
        cut(&legible(&tunnel.target), 27),
        brief(tunnel.age_s),
        sized(tunnel.up_bytes),
        sized(tunnel.down_bytes),
        sized(rate),
        brief(tunnel.idle_s),
    );
    cut(&line, WIDTH)
}

fn write_operations(snapshot: &Snapshot, style: Style, out: &mut String) -> std::fmt::Result {
    if snapshot.operations.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint(BOLD, "last operations"))?;
    for operation in snapshot.operations.iter().take(OPERATIONS) {
        write_operation(operation, style, out)?;
    }
    let more = snapshot.operations.len().saturating_sub(OPERATIONS);
    match more {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more with --json"),
    }
}

fn write_operation(operation: &Operation, style: Style, out: &mut String) -> std::fmt::Result {
    let (colour, word) = match operation.result {
        OperationResult::Executing => (YELLOW, "executing"),
        OperationResult::Successful => (GREEN, "opened"),
        OperationResult::Failed => (RED, "failed"),
    };
    let target = match operation.target.as_str() {
        "" => "no target".to_owned(),
        target => legible(target),
    };
    let mut line = format!("{} for {}", target, legible(&operation.device));
    if let Some(open) = operation.open_s {
        let _ = write!(line, ", open for {}", brief(open));
    }
    let ago = format!("{} ago", brief(operation.age_s));
    let line = cut(&line, WIDTH - 21);
    writeln!(
        out,
        "{ago:>10} {}{} {line}",
        style.paint(colour, word),
        " ".repeat(9 - word.len())
    )?;
    if let Some(reason) = &operation.reason {
        for line in wrapped(&legible(reason), WIDTH - 21) {
            writeln!(out, "{:21}{line}", "")?;
        }
    }
    Ok(())
}

/// A line with a name before it, and as many below it as the words take.
fn fact(out: &mut String, name: &str, words: &str) -> std::fmt::Result {
    const NAME: usize = 8;
    let lines = wrapped(words, WIDTH - INDENT - NAME);
    for (line, name) in lines
        .iter()
        .zip([name].into_iter().chain([""].into_iter().cycle()))
    {
        writeln!(out, "  {name:<NAME$}{line}")?;
    }
    Ok(())
}

/// Breaks a text at its spaces, and a word that is too long where the line ends.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ') {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > width {
            lines.push(String::new());
            length = 0;
        }
        for (at, letter) in word.chars().enumerate() {
            if length >= width {
                lines.push(String::new());
                length = 0;
            }
            let Some(line) = lines.last_mut() else {
                break;
            };
            if at == 0 && length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push(letter);
            length += 1;
        }
    }
    lines
}

/// Leaves out the end of a text that is longer than so many characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::snapshot::Failure;

    const PLAIN: Style = Style { has_colour: false };

    fn snapshot() -> Snapshot {
        let json = r#"{
            "format": 1,
            "agent": {"version": "0.1.0", "process_id": 4711, "uptime_s": 90061.5},
            "device": {"id": "gateway-7", "children": ["plc-1", "plc-2"]},
            "connection": {
                "is_connected": true, "is_ready": true,
                "broker": "mqtts://tenant.example.com:8883",
                "cloud": "https://tenant.example.com:443", "since_s": 7260.0
            },
            "authentication": {
                "kind": "certificate", "certificate_expires_at": "2027-02-03T10:00:00Z",
                "certificate_left_s": 5702400.0, "token_age_s": 720.0
            },
            "remote_access": {"policy": "allow private", "max_tunnels": 64},
            "tunnels": [{
                "id": 7, "device": "gateway-7", "target": "plc-7.lan:22", "state": "open",
                "age_s": 125.0, "up_bytes": 1200, "down_bytes": 98000,
                "up_bytes_per_s": 100, "down_bytes_per_s": 2000, "idle_s": 3.0
            }],
            "operations": [
                {"id": 7, "device": "gateway-7", "target": "plc-7.lan:22",
                 "result": "successful", "age_s": 125.0, "took_s": 0.1},
                {"id": 6, "device": "plc-2", "target": "10.0.0.9:5900", "result": "failed",
                 "age_s": 4000.0, "reason": "cannot reach 10.0.0.9:5900: connection refused"}
            ],
            "totals": {"operations_successful": 6, "operations_failed": {"unreachable": 1},
                       "up_bytes": 5000000, "down_bytes": 1500}
        }"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn tells_people_what_there_is_to_know() {
        let expected = "\
adit 0.1.0, process 4711, up for 1d01h
  connected to mqtts://tenant.example.com:8883 for 2h01m
  device  gateway-7, 2 children
  cloud   https://tenant.example.com:443
  login   certificate, expires 2027-02-03 (in 66d00h); token 12m00s old
  policy  allow private
  so far  6 opened, 1 failed; 4.7MiB to the cloud, 1.4KiB to devices

tunnels: 1 of 64
    id target                      state      age      up    down     B/s   idle
     7 plc-7.lan:22                open     2m05s  1.1KiB 95.7KiB  2.0KiB     3s

last operations
 2m05s ago opened    plc-7.lan:22 for gateway-7
 1h06m ago failed    10.0.0.9:5900 for plc-2
                     cannot reach 10.0.0.9:5900: connection refused
";
        let text = of(&snapshot(), PLAIN);
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn tells_what_processes_before_it_carry() {
        let mut snapshot = snapshot();
        let tunnels = snapshot.tunnels.clone();
        snapshot.predecessor = Some(Box::new(Predecessor {
            version: "0.1.0".to_owned(),
            process_id: 7,
            tunnels,
            ends_in_s: Some(1790.0),
            predecessor: Some(Box::default()),
        }));
        let text = of(&snapshot, PLAIN);
        let expected = "
tunnels of process 7 before it (adit 0.1.0): 1, for 29m50s at most
    id target                      state      age      up    down     B/s   idle
     7 plc-7.lan:22                open     2m05s  1.1KiB 95.7KiB  2.0KiB     3s

tunnels of process 0 before it (adit ): 0, until they end

last operations
";
        assert!(text.contains(expected), "\n{text}");
    }

    #[test]
    fn keeps_within_eighty_columns_whatever_comes() {
        let mut snapshot = snapshot();
        let long = "ü".repeat(300);
        snapshot.predecessor = Some(Box::new(Predecessor {
            version: long.clone(),
            ..Predecessor::default()
        }));
        snapshot.device.id.clone_from(&long);
        snapshot.connection.broker.clone_from(&long);
        snapshot.connection.is_connected = false;
        snapshot.connection.unsent_messages = u64::MAX;
        snapshot.connection.unknown_templates = vec!["150".to_owned(), long.clone()];
        snapshot.connection.last_error = Some(Failure {
            reason: format!("{long} {long}"),
            ..Failure::default()
        });
        snapshot.remote_access.policy = "allow 10.0.0.0/8, ".repeat(50);
        let tunnel = &mut snapshot.tunnels[0];
        tunnel.target.clone_from(&long);
        (tunnel.id, tunnel.up_bytes, tunnel.down_bytes) = (999_999, u64::MAX, u64::MAX);
        (tunnel.up_bytes_per_s, tunnel.age_s, tunnel.idle_s) = (u64::MAX, 1e9, f64::MAX);
        let operation = &mut snapshot.operations[1];
        operation.target.clone_from(&long);
        operation.reason = Some(format!("{long} {long}"));
        let text = of(&snapshot, PLAIN);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(text.contains("not connected"), "{text}");
        assert!(
            text.contains("the platform knows no template 150,"),
            "{text}"
        );
    }

    #[test]
    fn lets_no_name_move_the_cursor() {
        let mut snapshot = snapshot();
        snapshot.device.id = "a\x1b[2Jb\nc".to_owned();
        let coloured = of(&snapshot, Style { has_colour: true });
        assert!(!coloured.contains("\x1b[2J"), "{coloured:?}");
        assert!(coloured.contains("\x1b[32mconnected\x1b[0m"));
        assert!(!of(&snapshot, PLAIN).contains('\x1b'));
    }
}
