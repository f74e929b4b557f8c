//! Looking again costs nothing while there is nothing new.

use std::io;
use std::task::{Context, Poll};

use super::Stream;

/// A task's watch over what a stream has to say. As long as nothing new was announced, looking again costs next to
/// nothing. It belongs to one task: whoever takes a stream over begins with a new one.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The event loop wakes this task when there is something to read.
    armed: bool,
}

impl Watch {
    /// As [`Stream::poll_read_into`].
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.armed && !stream.has_spoken() {
            return Poll::Pending;
        }
        let read = stream.poll_read_into(cx, buf);
        // Without budget the task is only put off, and nothing was asked of the event loop.
        self.armed = read.is_pending() && tokio::task::coop::has_budget_remaining();
        read
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use tokio::task::coop;

    use super::*;
    use crate::net::Socket;

    /// A task whose budget ran out is put off without being registered with the event loop; a watch that took this
    /// for "armed" would never hear of what comes later.
    #[tokio::test]
    async fn a_watch_that_ran_out_of_budget_still_hears() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let (mut near, mut watch, mut buf) = (Stream::Plain(Socket::Unix(near)), Watch::default(), [0u8; 8]);
        poll_fn(|cx| {
            while coop::has_budget_remaining() {
                let _ = coop::poll_proceed(cx).map(|spent| spent.made_progress());
            }
            assert!(watch.poll_read(&mut near, cx, &mut buf).is_pending());
            Poll::Ready(())
        })
        .await;
        // In a task of its own, so that nothing but the stream wakes it.
        let heard = tokio::spawn(async move { poll_fn(|cx| watch.poll_read(&mut near, cx, &mut buf)).await });
        tokio::task::yield_now().await;
        far.write_all(b"late").await.unwrap();
        let heard = tokio::time::timeout(std::time::Duration::from_secs(5), heard).await;
        assert_eq!(heard.unwrap().unwrap().unwrap(), 4);
    }
}
