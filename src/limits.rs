//! What the system lets a process have, and how much of it adit needs.

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tracing::{debug, warn};

/// Files that a tunnel holds open: the machine's socket and the cloud's.
const FILES_OF_TUNNEL: u64 = 2;
/// Files of everything else, and room for tunnels that try several addresses at once.
const OTHER_FILES: u64 = 128;

/// Files without which nothing is begun: what adit holds without a tunnel (13), confines itself with and reads
/// its configuration from, and one tunnel whose ends try several addresses.
const LEAST_FILES: u64 = 32;

/// Makes room for what the runtime and one tunnel need.
///
/// # Errors
/// The system allows fewer open files.
pub fn allow_least_files() -> anyhow::Result<()> {
    let now = getrlimit(Resource::Nofile);
    let highest = now.maximum.unwrap_or(LEAST_FILES);
    ensure!(
        highest >= LEAST_FILES,
        "the system allows {highest} open files, and adit needs at least {LEAST_FILES}: raise the limit \
         (LimitNOFILE= of systemd, ulimit -n)"
    );
    if let Some(wanted) = raised(now, LEAST_FILES) {
        prlimit(None, Resource::Nofile, wanted).context("cannot raise the limit of open files")?;
    }
    Ok(())
}

/// Raises the number of files that may be open to what `max_tunnels` and so many `connections` of
/// those who look at adit need, as far as the system lets it; the usual limit of 1024 is not enough
/// for 500 tunnels.
pub(crate) fn allow_files_for(max_tunnels: usize, connections: usize) {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    let needed = files_for(max_tunnels).saturating_add(connections);
    let now = getrlimit(Resource::Nofile);
    if let Some(wanted) = raised(now, needed) {
        match prlimit(None, Resource::Nofile, wanted) {
            Ok(_) => debug!(from = ?now.current, to = ?wanted.current, "more files may be open"),
            Err(error) => debug!(error = error.to_string(), "the limit of open files stays"),
        }
    }
    let limit = getrlimit(Resource::Nofile).current;
    if let Some(limit) = limit.filter(|&limit| limit < needed) {
        warn!(
            limit,
            needed,
            tunnels = tunnels_within(limit),
            "the system allows too few open files for remote_access.max_tunnels, and tunnels beyond \
             this number will fail: raise the limit (LimitNOFILE= of systemd, ulimit -n) or lower \
             max_tunnels"
        );
    }
}

fn files_for(max_tunnels: usize) -> u64 {
    let tunnels = u64::try_from(max_tunnels).unwrap_or(u64::MAX);
    tunnels
        .saturating_mul(FILES_OF_TUNNEL)
        .saturating_add(OTHER_FILES)
}

fn tunnels_within(files: u64) -> u64 {
    files.saturating_sub(OTHER_FILES) / FILES_OF_TUNNEL
}

/// Returns the limits to set, or `None` where the present ones are enough or cannot be raised.
fn raised(now: Rlimit, needed: u64) -> Option<Rlimit> {
    let current = now.current?;
    let highest = now.maximum.map_or(needed, |maximum| maximum.min(needed));
    (current < highest).then_some(Rlimit {
        current: Some(highest),
        ..now
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_the_limit_to_what_is_needed_and_no_further_than_it_may() {
        for (current, maximum, needed, raised_to) in [
            (Some(1024), Some(4096), 2128, Some(2128)),
            (Some(1024), Some(2000), 2128, Some(2000)),
            (Some(1024), None, 2128, Some(2128)),
            (Some(1024), Some(1024), 2128, None),
            (Some(4096), Some(4096), 2128, None),
            (None, None, 2128, None),
        ] {
            let now = Rlimit { current, maximum };
            let limits = raised(now, needed);
            assert_eq!(limits.map(|limits| limits.current), raised_to.map(Some));
            assert!(limits.is_none_or(|limits| limits.maximum == maximum));
        }
    }

    #[test]
    fn knows_how_many_tunnels_fit() {
        assert_eq!(files_for(1000), 2128);
        assert_eq!(tunnels_within(files_for(1000)), 1000);
        assert_eq!(tunnels_within(20), 0);
    }
}
