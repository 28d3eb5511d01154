//! Runs of one daemon on one state directory, each ended by SIGKILL, and a run after each of them that
//! has to keep every promise.
//!
//! Owned by the test. What holds: promises are remembered outside the state directory.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use kmerge_client::{Client, Health};

use crate::oracle::Oracle;
use crate::support::daemon::PATIENCE;
use crate::support::{Daemon, Setup};
use crate::work::{Work, work};

/// A state directory, what was promised about it, and the runs so far.
pub(crate) struct Campaign {
    daemon: Daemon,
    oracle: Arc<Oracle>,
    what: Work,
    round: u64,
}

/// Where a run was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// At the point that was asked for.
    AtPoint,
    /// At the point, before it served.
    OnTheWay,
    /// It never came to the point, and was killed when clients had nothing left to do.
    Afterwards,
}

/// What became of a run on a failing disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It ended before it served.
    NeverServed,
    /// It ended by itself.
    Stopped,
    /// It went on.
    WentOn,
}

impl Campaign {
    /// A campaign on a new directory.
    pub(crate) fn new(what: Work) -> Self {
        Self {
            what,
            daemon: Setup::default()
                .env("KMERGE_SERVING__GRACE_SECONDS", "0")
                .prepare(),
            oracle: Arc::default(),
            round: 0,
        }
    }

    /// One run under a plan for the points, and another one that has to keep the promises.
    pub(crate) async fn killed_by(&mut self, plan: &str) {
        self.end_at(plan).await;
        self.keep_promises().await;
    }

    /// One run under a plan for the points, which has to end at one of them. Says whether it served
    /// before that.
    pub(crate) async fn end_at(&mut self, plan: &str) -> bool {
        let ended = self.end_near(plan).await;
        assert_ne!(ended, Ended::Afterwards, "{plan} is never hit");
        ended == Ended::AtPoint
    }

    /// One run under a plan for the points, which is killed at its end if it comes to none of them.
    pub(crate) async fn end_near(&mut self, plan: &str) -> Ended {
        self.daemon.env("KMERGE_FAILPOINT", plan);
        self.daemon.launch();
        let working = match serving(&mut self.daemon).await {
            Ok(client) => Some(self.work(client)),
            // The point lies on the way to serving.
            Err(_) => None,
        };
        let mut ended = match working {
            Some(_) => Ended::AtPoint,
            None => Ended::OnTheWay,
        };
        if let Some(working) = working {
            tokio::time::timeout(PATIENCE, working)
                .await
                .expect("clients come to an end")
                .unwrap();
            // Collection may still be on its way to the point.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.daemon.exited().is_none() {
                ended = Ended::Afterwards;
                self.daemon.kill();
            }
        }
        if ended != Ended::Afterwards {
            let status = self.daemon.wait().await;
            assert_eq!(status.signal(), Some(9), "{plan} ended with {status}");
        }
        self.daemon.clear("KMERGE_FAILPOINT");
        ended
    }

    /// One run in which the disk fails as `plan` says: the daemon may refuse, and may end by itself,
    /// but must not lose anything. Gives what became of it.
    pub(crate) async fn on_a_failing_disk(&mut self, plan: &str) -> Fate {
        self.oracle.let_it_refuse(true);
        self.daemon.env("KMERGE_FAILPOINT", plan);
        self.daemon.launch();
        let mut fate = Fate::NeverServed;
        if let Ok(client) = serving(&mut self.daemon).await {
            let working = self.work(client);
            tokio::time::timeout(PATIENCE, working)
                .await
                .expect("clients come to an end")
                .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            fate = Fate::Stopped;
        }
        // A flush that failed must not be tried again: nothing may go on behind it.
        if self.daemon.exited().is_none() && !self.has_failed() {
            fate = Fate::WentOn;
            self.daemon.kill();
        } else {
            let status = self.daemon.wait().await;
            // Either it saw that the state was not safe, or the plan ended it.
            let is_expected = status.code() == Some(1) || status.signal() == Some(9);
            assert!(is_expected, "{plan} ended with {status}");
        }
        self.daemon.clear("KMERGE_FAILPOINT");
        self.oracle.let_it_refuse(false);
        fate
    }

    /// One run that is killed when `moment` has passed.
    pub(crate) async fn killed_after(&mut self, moment: Duration) {
        self.end_after(moment).await;
        self.keep_promises().await;
    }

    /// The same without the run after it.
    pub(crate) async fn end_after(&mut self, moment: Duration) {
        self.daemon.launch();
        self.daemon.ready().await;
        let working = self.work(self.daemon.client().await);
        tokio::time::sleep(moment).await;
        self.daemon.kill();
        working.await.unwrap();
    }

    /// Starts what clients do, and somebody who watches.
    fn work(&mut self, client: Client) -> tokio::task::JoinHandle<()> {
        self.round += 1;
        let (oracle, what, round) = (Arc::clone(&self.oracle), self.what, self.round);
        tokio::spawn(async move {
            // Watching goes on until the daemon is gone; who works may have done all before that.
            tokio::select! {
                () = async { oracle.watch(client.clone()).await; } => {}
                () = work(&oracle, &client, what, round) => {}
            }
        })
    }

    /// Whether the run has said that the state can no longer be written.
    fn has_failed(&self) -> bool {
        self.daemon.log().contains("can no longer be written")
    }

    pub(crate) async fn keep_promises(&mut self) {
        self.daemon.launch();
        self.daemon.ready().await;
        let client = self.daemon.client().await;
        // A job that is never taken up again must not hold the test up for ever.
        tokio::time::timeout(PATIENCE, self.oracle.send_again(&client))
            .await
            .expect("every job ends");
        self.oracle.check_served(&client).await;
        self.daemon.stop().await;
        self.oracle.check_disk(&self.daemon.state());
        // Recovery says what it did, and the job that is to fail says so.
        self.daemon
            .assert_quiet(&["recovery:", "base_model=narrow"]);
    }
}

/// A client once the daemon serves, or how it ended before that.
async fn serving(daemon: &mut Daemon) -> Result<Client, ExitStatus> {
    loop {
        if let Some(status) = daemon.exited() {
            return Err(status);
        }
        if let Ok(client) = Client::connect(&daemon.socket()).await
            && client.health().await.ok() == Some(Health::Serving)
        {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
