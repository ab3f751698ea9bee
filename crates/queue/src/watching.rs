//! The stream of a submission's events, page by page from whatever store keeps them. A watcher is only told that there is
//! news and reads again what came after the last event that it saw, so nothing is lost or sent twice however slow it is.

use std::collections::VecDeque;

use async_trait::async_trait;
use futures::stream;
use verbatim_core::event::{EventSeq, JobEvent};
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::{ErrorKind, PortError};

/// Events read at a time.
pub(crate) const PAGE: usize = 256;

/// What follows after some event.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// In order.
    pub(crate) events: VecDeque<JobEvent>,
    /// Whether nothing will follow this page.
    pub(crate) last: bool,
    /// The last number that was read, where more follows at once: also that of an event which cannot be read.
    pub(crate) goes_on_after: Option<u64>,
}

/// Where the events of one submission are read.
#[async_trait]
pub(crate) trait Pages: Send + 'static {
    /// What comes after this number now. Whatever changes from here on is news.
    async fn read(&mut self, after: u64) -> Result<Page, PortError>;

    /// Waits until there may be something new.
    async fn news(&mut self) -> Result<(), PortError>;
}

struct Watcher<P> {
    pages: P,
    after: u64,
    page: Page,
}

/// The stream after the event that the client saw last, of a job whose last number is `last_seq`.
pub(crate) fn stream(pages: impl Pages, after: Option<EventSeq>, last_seq: u64) -> EventStream {
    // A number that this job never gave is from another life of the client: it starts over.
    let after = after.map_or(0, |seq| seq.0);
    let after = if after > last_seq { 0 } else { after };
    Box::pin(stream::try_unfold(Watcher { pages, after, page: Page::default() }, next))
}

async fn next<P: Pages>(mut watcher: Watcher<P>) -> Result<Option<(JobEvent, Watcher<P>)>, PortError> {
    let mut looked = false;
    loop {
        if let Some(event) = watcher.page.events.pop_front() {
            watcher.after = event.seq.0;
            return Ok(Some((event, watcher)));
        }
        if watcher.page.last {
            return Ok(None);
        }
        match watcher.page.goes_on_after {
            Some(read) => watcher.after = watcher.after.max(read),
            None if looked => watcher.pages.news().await?,
            None => {}
        }
        watcher.page = watcher.pages.read(watcher.after).await?;
        looked = true;
    }
}

/// The submission went while it was watched.
pub(crate) fn removed() -> PortError {
    PortError::new(ErrorKind::NotFound, "the job was removed while it was watched")
}
