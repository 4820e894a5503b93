//! `adit upgrade`: has the program started again in the place of the running agent, and says what became
//! of it.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::admin::Settings;
use crate::admin::client;
use crate::state::upgraded::Upgraded;
use crate::words::legible;

/// Asks, and prints the answer.
pub(crate) async fn run(settings: &Settings) -> ExitCode {
    let (words, code) = match client::upgrade(settings).await {
        Ok(upgraded) => {
            let code = match upgraded.fault {
                None => ExitCode::SUCCESS,
                Some(_) => ExitCode::FAILURE,
            };
            (text(&upgraded), code)
        }
        Err(error) => (error.to_string(), error.exit_code()),
    };
    // Who asked may not want to read it.
    let _ = writeln!(io::stdout(), "{words}");
    code
}

fn text(upgraded: &Upgraded) -> String {
    if let Some(fault) = &upgraded.fault {
        return format!("no upgrade, the running adit goes on: {}", legible(fault));
    }
    let carried = match upgraded.old_tunnels {
        0 => "has ended".to_owned(),
        1 => "carries 1 tunnel until it ends".to_owned(),
        count => format!("carries {count} tunnels until they end"),
    };
    let connection = match upgraded.is_connected {
        true => "",
        false => ", and has no connection to the broker yet",
    };
    format!(
        "adit {}, process {}, has taken over{connection}; process {} {carried}",
        legible(&upgraded.version),
        upgraded.process_id,
        upgraded.old_process_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_what_became_of_the_upgrade() {
        let upgraded = Upgraded {
            version: "0.2.0".to_owned(),
            process_id: 12,
            is_connected: true,
            old_process_id: 7,
            old_tunnels: 2,
            ..Upgraded::default()
        };
        assert_eq!(
            text(&upgraded),
            "adit 0.2.0, process 12, has taken over; process 7 carries 2 tunnels until they end"
        );
        let upgraded = Upgraded {
            is_connected: false,
            old_tunnels: 0,
            ..upgraded
        };
        assert_eq!(
            text(&upgraded),
            "adit 0.2.0, process 12, has taken over, and has no connection to the broker yet; \
             process 7 has ended"
        );
        assert_eq!(
            text(&Upgraded::refused("it ended\x1b")),
            "no upgrade, the running adit goes on: it ended"
        );
    }
}
