//! How whoever looks at adit asks its heart, from any thread. The heart answers when it comes to it,
//! between two events; nobody reads what it holds while a tunnel waits for it.

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{Level, warn};

use crate::state::Snapshot;
use crate::state::reloaded::Reloaded;
use crate::state::upgraded::Upgraded;

/// How long the heart may take to answer: it never waits itself, but the machine may be busy.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to read the configuration and all files that it names again.
pub(crate) const RELOAD_LIMIT: Duration = Duration::from_secs(45);
/// How long an upgrade may take: longer than all of its steps together.
pub(crate) const UPGRADE_LIMIT: Duration = Duration::from_secs(120);
/// Questions that wait at most; who asks more waits to ask.
const QUEUE: usize = 16;

/// A wish to read the configuration again.
#[derive(Debug)]
pub(crate) struct ReloadWish {
    /// The least important messages to log from now on.
    pub(crate) log_level: Option<Level>,
    /// Takes what became of it.
    pub(crate) answer: oneshot::Sender<Reloaded>,
}

/// A wish that another process of the program follows this one.
#[derive(Debug)]
pub(crate) struct UpgradeWish {
    /// Takes what became of it.
    pub(crate) answer: oneshot::Sender<Upgraded>,
}

/// What the heart is asked.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// What it does and has done.
    Look(oneshot::Sender<Snapshot>),
}

/// Asks.
#[derive(Clone, Debug)]
pub(crate) struct Inquirer {
    inquiries: mpsc::Sender<Inquiry>,
    reloads: mpsc::Sender<ReloadWish>,
    upgrades: mpsc::Sender<UpgradeWish>,
}

/// The heart's end.
pub(crate) type Inquiries = mpsc::Receiver<Inquiry>;
/// The end of whoever reads the configuration.
pub(crate) type ReloadWishes = mpsc::Receiver<ReloadWish>;
/// The end of whoever leads upgrades.
pub(crate) type UpgradeWishes = mpsc::Receiver<UpgradeWish>;

/// The heart has ended, or does not answer in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "adit does not answer within {}; it is stopping, or the machine is very busy",
    humantime::format_duration(ANSWER_LIMIT)
)]
pub(crate) struct NoAnswer;

/// Nobody reads the configuration, or that takes too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "adit has not read its configuration again within {}; it is starting or stopping, or a disk \
         hangs",
    humantime::format_duration(RELOAD_LIMIT)
)]
pub(crate) struct NotReloaded;

/// Nobody leads the upgrade, or that takes too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("adit does not tell what has become of the upgrade; it is starting or stopping")]
pub(crate) struct NotUpgraded;

/// Makes all ends.
pub(crate) fn channel() -> (Inquirer, Inquiries, ReloadWishes, UpgradeWishes) {
    let (inquiries, heart) = mpsc::channel(QUEUE);
    let (reloads, reader) = mpsc::channel(QUEUE);
    let (upgrades, leader) = mpsc::channel(QUEUE);
    let inquirer = Inquirer {
        inquiries,
        reloads,
        upgrades,
    };
    (inquirer, heart, reader, leader)
}

impl Inquirer {
    /// Returns what adit does at this moment.
    ///
    /// # Errors
    /// The heart has ended, or does not answer in time.
    pub(crate) async fn look(&self) -> Result<Snapshot, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.inquiries.send(Inquiry::Look(answer)).await.ok()?;
            answered.await.ok()
        };
        timeout(ANSWER_LIMIT, asking)
            .await
            .ok()
            .flatten()
            .ok_or(NoAnswer)
    }

    /// Has the configuration read again, and returns what became of it.
    ///
    /// # Errors
    /// Nobody reads it, or that takes too long.
    pub(crate) async fn reload(&self, log_level: Option<Level>) -> Result<Reloaded, NotReloaded> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let wish = ReloadWish { log_level, answer };
            self.reloads.send(wish).await.ok()?;
            answered.await.ok()
        };
        timeout(RELOAD_LIMIT, asking)
            .await
            .ok()
            .flatten()
            .ok_or(NotReloaded)
    }

    /// Has another process of the program follow this one, and returns what became of it.
    ///
    /// # Errors
    /// Nobody leads it, or that takes too long.
    pub(crate) async fn upgrade(&self) -> Result<Upgraded, NotUpgraded> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.upgrades.send(UpgradeWish { answer }).await.ok()?;
            answered.await.ok()
        };
        timeout(UPGRADE_LIMIT, asking)
            .await
            .ok()
            .flatten()
            .ok_or(NotUpgraded)
    }

    /// Has another process of the program follow this one, whatever becomes of it.
    pub(crate) fn want_upgrade(&self) {
        let answer = oneshot::channel().0;
        // Where so many wait, one of them is that of somebody else.
        if let Err(TrySendError::Closed(_)) = self.upgrades.try_send(UpgradeWish { answer }) {
            warn!(reason = "adit is stopping", "no upgrade");
        }
    }
}
