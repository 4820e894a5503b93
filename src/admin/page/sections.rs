//! The sections of the page, each in HTML.

use std::fmt::{self, Write};

use super::History;
use crate::state::Snapshot;
use crate::state::snapshot::{Operation, OperationResult, Phase, Tunnel, TunnelState};
use crate::words::{brief, legible, sized};

/// Width and height of a sparkline, in units of its own.
const SPARK: (usize, usize) = (59, 20);
/// Tunnels that are shown; thousands would be slow to show and nobody reads them.
const TUNNELS: usize = 200;

/// A part of the page that is replaced when it has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Section {
    Summary,
    Tunnels,
    Operations,
    Facts,
}

impl Section {
    pub(super) const ALL: [Self; 4] = [Self::Summary, Self::Tunnels, Self::Operations, Self::Facts];

    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Summary => "summary",
            Self::Tunnels => "tunnels",
            Self::Operations => "operations",
            Self::Facts => "facts",
        }
    }

    pub(super) fn html(self, snapshot: &Snapshot, history: &History) -> String {
        let mut html = String::new();
        // Writing to a text cannot fail.
        let _ = match self {
            Self::Summary => summary(snapshot, &mut html),
            Self::Tunnels => tunnels(snapshot, history, &mut html),
            Self::Operations => operations(snapshot, &mut html),
            Self::Facts => facts(snapshot, &mut html),
        };
        html
    }
}

/// Makes of a text from outside what HTML shows as that text, between tags and in quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in legible(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn summary(snapshot: &Snapshot, out: &mut String) -> fmt::Result {
    let connection = &snapshot.connection;
    let (class, word) = match (connection.is_connected, connection.is_ready) {
        (true, true) => ("good", "connected"),
        (true, false) => ("fair", "connected, not ready"),
        (false, _) => ("bad", "not connected"),
    };
    let phase = match snapshot.agent.phase {
        Phase::Running => "",
        Phase::Registering => " The platform has not accepted this device yet.",
        Phase::Stopping => " It is stopping.",
    };
    write!(
        out,
        "<h1>{}</h1><p><strong class=\"state {class}\">{word}</strong> to {} for {}.{phase}</p>",
        escape(&snapshot.device.id),
        escape(&connection.broker),
        brief(connection.since_s)
    )?;
    if let Some(error) = &connection.last_error {
        let class = if connection.is_connected {
            "past"
        } else {
            "bad"
        };
        write!(
            out,
            "<p class=\"{class}\">Last error, {} ago: {}</p>",
            brief(error.age_s),
            escape(&error.reason)
        )?;
    }
    match connection.unsent_messages {
        0 => Ok(()),
        1 => out.write_str("<p>One message waits for the broker.</p>"),
        count => write!(out, "<p>{count} messages wait for the broker.</p>"),
    }
}

fn tunnels(snapshot: &Snapshot, history: &History, out: &mut String) -> fmt::Result {
    let limit = snapshot.remote_access.max_tunnels;
    let count = snapshot.tunnels.len();
    write!(out, "<h2>Tunnels <small>{count} of {limit}</small></h2>")?;
    if count == 0 {
        return out.write_str("<p class=\"none\">None is open.</p>");
    }
    out.write_str(
        "<table><thead><tr><th>Target</th><th>For</th><th>State</th><th>Age</th><th>Up</th>\
         <th>Down</th><th>Rate</th><th>Idle</th></tr></thead><tbody>",
    )?;
    for tunnel in snapshot.tunnels.iter().take(TUNNELS) {
        tunnel_row(tunnel, history, out)?;
    }
    out.write_str("</tbody></table>")?;
    match count.saturating_sub(TUNNELS) {
        0 => Ok(()),
        more => write!(out, "<p>And {more} more.</p>"),
    }
}

fn tunnel_row(tunnel: &Tunnel, history: &History, out: &mut String) -> fmt::Result {
    let (class, state) = match tunnel.state {
        TunnelState::Opening => ("fair", "opening"),
        TunnelState::Open => ("good", "open"),
        TunnelState::Ending => ("fair", "ending"),
    };
    write!(
        out,
        "<tr><td data-name=\"Target\"><b>{}</b></td><td data-name=\"For\">{}</td>\
         <td data-name=\"State\"><span class=\"state {class}\">{state}</span></td>\
         <td data-name=\"Age\">{}</td><td data-name=\"Up\">{}</td><td data-name=\"Down\">{}</td>\
         <td data-name=\"Rate\">",
        escape(&tunnel.target),
        escape(&tunnel.device),
        brief(tunnel.age_s),
        sized(tunnel.up_bytes),
        sized(tunnel.down_bytes),
    )?;
    sparkline(tunnel, history, out)?;
    write!(
        out,
        "</td><td data-name=\"Idle\">{}</td></tr>",
        brief(tunnel.idle_s)
    )
}

/// Two lines of the last minute, and the rates of now in words.
fn sparkline(tunnel: &Tunnel, history: &History, out: &mut String) -> fmt::Result {
    let (width, height) = SPARK;
    let words = format!(
        "{}/s up, {}/s down",
        sized(tunnel.up_bytes_per_s),
        sized(tunnel.down_bytes_per_s)
    );
    let rates = history.of(tunnel.id);
    let highest = rates.clone().map(|(up, down)| up.max(down)).max();
    let highest = u128::from(highest.unwrap_or(0).max(1));
    if rates.len() > 1 {
        write!(
            out,
            "<svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"rates of the last minute\">"
        )?;
        let first = width + 1 - rates.len();
        for is_up in [true, false] {
            let class = if is_up { "up" } else { "down" };
            write!(out, "<polyline class=\"{class}\" points=\"")?;
            for (at, (up, down)) in rates.clone().enumerate() {
                let rate = if is_up { up } else { down };
                let high = u128::from(rate) * (height as u128 - 2) / highest;
                write!(out, "{},{} ", first + at, height as u128 - 1 - high)?;
            }
            out.write_str("\"/>")?;
        }
        out.write_str("</svg>")?;
    }
    write!(out, "<span class=\"rate\">{words}</span>")
}

fn operations(snapshot: &Snapshot, out: &mut String) -> fmt::Result {
    out.write_str("<h2>Last operations</h2>")?;
    if snapshot.operations.is_empty() {
        return out.write_str("<p class=\"none\">There was none since adit has started.</p>");
    }
    out.write_str("<ol>")?;
    for operation in &snapshot.operations {
        operation_item(operation, out)?;
    }
    out.write_str("</ol>")
}

fn operation_item(operation: &Operation, out: &mut String) -> fmt::Result {
    let (class, word) = match operation.result {
        OperationResult::Executing => ("fair", "executing"),
        OperationResult::Successful => ("good", "opened"),
        OperationResult::Failed => ("bad", "failed"),
    };
    let target = match operation.target.as_str() {
        "" => "no target".to_owned(),
        target => escape(target),
    };
    write!(
        out,
        "<li><span class=\"state {class}\">{word}</span> <b>{target}</b> for {} \
         <span class=\"past\"><time>{}</time>, {} ago",
        escape(&operation.device),
        escape(&operation.received_at),
        brief(operation.age_s)
    )?;
    if let Some(open) = operation.open_s {
        write!(out, ", open for {}", brief(open))?;
    }
    out.write_str("</span>")?;
    if let Some(reason) = &operation.reason {
        write!(out, "<p>{}</p>", escape(reason))?;
    }
    out.write_str("</li>")
}

fn facts(snapshot: &Snapshot, out: &mut String) -> fmt::Result {
    let (agent, totals) = (&snapshot.agent, &snapshot.totals);
    let authentication = &snapshot.authentication;
    let failed: u64 = totals.operations_failed.values().sum();
    let mut login = escape(&authentication.kind);
    if let (Some(at), Some(left)) = (
        &authentication.certificate_expires_at,
        authentication.certificate_left_s,
    ) {
        let day = escape(at.split('T').next().unwrap_or_default());
        match left >= 0.0 {
            true => write!(login, ", expires {day} (in {})", brief(left))?,
            false => write!(login, ", expired {day} ({} ago)", brief(-left))?,
        }
    }
    if let Some(age) = authentication.token_age_s {
        write!(login, "; token {} old", brief(age))?;
    }
    let children = match snapshot.device.children.as_slice() {
        [] => "none".to_owned(),
        children => escape(&children.join(", ")),
    };
    out.write_str("<h2>Gateway</h2><dl>")?;
    for (name, html) in [
        ("Policy", escape(&snapshot.remote_access.policy)),
        ("Cloud", escape(&snapshot.connection.cloud)),
        ("Login", login),
        ("Children", children),
        (
            "So far",
            format!(
                "{} opened, {failed} failed; {} to the cloud, {} to devices",
                totals.operations_successful,
                sized(totals.up_bytes),
                sized(totals.down_bytes)
            ),
        ),
        (
            "adit",
            format!(
                "{}, process {}, up for {}",
                escape(&agent.version),
                agent.process_id,
                brief(agent.uptime_s)
            ),
        ),
    ] {
        write!(out, "<dt>{name}</dt><dd>{html}</dd>")?;
    }
    out.write_str("</dl>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_means_something_in_html() {
        assert_eq!(escape("a<b>&'c"), "a&lt;b&gt;&amp;&#39;c");
    }

    #[test]
    fn draws_the_rates_of_the_last_minute() {
        let mut snapshot = Snapshot::default();
        let mut history = History::default();
        snapshot.tunnels.push(Tunnel::default());
        for rate in [0, 50, 100] {
            snapshot.tunnels[0].up_bytes_per_s = rate;
            history.add(&snapshot);
        }
        let html = Section::Tunnels.html(&snapshot, &history);
        assert!(
            html.contains("<polyline class=\"up\" points=\"57,19 58,10 59,1 \"/>"),
            "{html}"
        );
        assert!(html.contains("<span class=\"rate\">100/s up, 0/s down</span>"));
    }
}
