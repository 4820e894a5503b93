//! How whoever looks at adit asks its heart, from any thread. The heart answers when it comes to it,
//! between two events; nobody reads what it holds while a tunnel waits for it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::state::Snapshot;

/// How long the heart may take to answer: it never waits itself, but the machine may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Questions that wait at most; who asks more waits to ask.
const QUEUE: usize = 16;

/// What the heart is asked.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// What it does and has done.
    Look(oneshot::Sender<Snapshot>),
}

/// Asks.
#[derive(Clone, Debug)]
pub(crate) struct Inquirer(mpsc::Sender<Inquiry>);

/// The heart's end.
pub(crate) type Inquiries = mpsc::Receiver<Inquiry>;

/// The heart has ended, or does not answer in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "adit does not answer within {}; it is stopping, or the machine is very busy",
    humantime::format_duration(ANSWER_LIMIT)
)]
pub(crate) struct NoAnswer;

/// Makes both ends.
pub(crate) fn channel() -> (Inquirer, Inquiries) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Inquirer(sender), receiver)
}

impl Inquirer {
    /// Returns what adit does at this moment.
    ///
    /// # Errors
    /// The heart has ended, or does not answer in time.
    pub(crate) async fn look(&self) -> Result<Snapshot, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.0.send(Inquiry::Look(answer)).await.ok()?;
            answered.await.ok()
        };
        timeout(ANSWER_LIMIT, asking)
            .await
            .ok()
            .flatten()
            .ok_or(NoAnswer)
    }
}
