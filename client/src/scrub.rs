//! Having everything read again that the daemon keeps.

use kmerge_proto::v1;
use tonic::Request;

use crate::client::{Client, present};
use crate::error::{Breach, Error};

impl Client {
    /// Holds the daemon's own scrubbing, or lets it go on; over restarts too.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_scrub(&self, paused: bool) -> Result<v1::ScrubState, Error> {
        let request = Request::new(v1::SetScrubRequest { paused });
        let answer = self.admin().set_scrub(request).await;
        let v1::SetScrubResponse { scrub } = self.read(answer)?;
        present(scrub, "scrub")
    }

    /// Scrubs at `bytes_per_second`, or as fast as the disk is for 0, and gives what was found. `tell`
    /// is told how far it is.
    ///
    /// # Errors
    /// See [`Error`]; a scrub that the daemon ends early is no result.
    pub async fn scrub(
        &self,
        bytes_per_second: u64,
        mut tell: impl FnMut(&v1::Scrubbed),
    ) -> Result<v1::Scrubbed, Error> {
        let request = Request::new(v1::ScrubRequest { bytes_per_second });
        let answer = self.admin().scrub(request).await;
        let mut stream = self.read(answer)?;
        loop {
            match stream.message().await {
                Ok(Some(state)) => {
                    let state = present(state.scrubbed, "scrubbed")?;
                    if state.end_time.is_some() {
                        return Ok(state);
                    }
                    tell(&state);
                }
                Ok(None) => return Err(Error::Protocol(Breach::Missing("end of the scrub"))),
                Err(status) => return Err(self.error(&status)),
            }
        }
    }
}
