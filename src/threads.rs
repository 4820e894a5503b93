//! Threads for what may take its time, as a disk or a name server.
//!
//! The runtime has its own for that, and panics where the system gives it none. A machine that is short
//! of threads for a moment is no reason to end tunnels, so these are begun here, and may be missing.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Does what may take its time in a thread of its own, which begins at once. Dropping the future leaves it
/// to itself.
///
/// # Errors
/// The system gives no thread, or `work` has not come to its end.
pub(crate) fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    aside_in(thread::Builder::new(), work)
}

fn aside_in<T: Send + 'static>(
    thread: thread::Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    let (sender, done) = oneshot::channel();
    let begun = thread
        .spawn(move || drop(sender.send(work())))
        .map_err(|error| io::Error::new(error.kind(), format!("no thread for it: {error}")));
    async move {
        begun?;
        done.await.map_err(|_| io::Error::other("a fault in adit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_told_that_there_is_no_thread() {
        // Half of all addresses, on any machine.
        const NO_STACK: usize = 1 << (usize::BITS - 1);
        assert_eq!(aside(|| 7).await.unwrap(), 7);
        let thread = thread::Builder::new().stack_size(NO_STACK);
        let error = aside_in(thread, || 7).await.unwrap_err().to_string();
        assert!(error.starts_with("no thread for it: "), "{error}");
    }
}
