//! Ends a daemon that is stuck, so that it can be started again: by saying nothing to the service
//! manager's watchdog, or, where there is none, by itself.
//!
//! Asks the catalog's owner and the door for a sign of life, and looks at every other part's heartbeat.
//! What holds: a part that is stuck is named in the log before anything ends, and nothing is lost by it:
//! a kill is safe at any moment.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use crate::liveness::{Liveness, Pulse, overdue};
use crate::owner::Owner;
use crate::service_manager;
use crate::shutdown::Stop;

/// What the one who watches knows.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The heartbeats.
    pub liveness: Liveness,
    /// The catalog's owner.
    pub owner: Owner,
    /// Its heartbeat.
    pub catalog: Pulse,
    /// Where the door is.
    pub socket: PathBuf,
    /// Ends the watch.
    pub stop: Stop,
}

/// What a client says first, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Watches for the service manager if that wants it, else by itself if `stuck` is not zero.
///
/// # Errors
/// If the system has no thread to give.
pub async fn keep(watched: Watched, stuck: Duration) -> std::io::Result<()> {
    match service_manager::watchdog_period() {
        Some(period) => {
            tell(&watched, period).await;
            Ok(())
        }
        None if stuck.is_zero() => Ok(()),
        None => {
            let runtime = Handle::current();
            let thread = std::thread::Builder::new().name("watchdog".to_owned());
            thread
                .spawn(move || abort_when_stuck(&watched, stuck, &runtime))
                .map(drop)
        }
    }
}

/// Tells the service manager that all is well, as long as it is.
async fn tell(watched: &Watched, period: Duration) {
    // Twice in each period, as systemd advises, but never more often than once a second.
    let pause = (period / 2).max(Duration::from_secs(1));
    let (catalog, door) = (&watched.catalog, watched.liveness.part("the door", None));
    catalog.beat();
    door.beat();
    let mut was_stuck = false;
    loop {
        let (answered, opened) = tokio::join!(
            watched.owner.answers(pause),
            is_open(&watched.socket, pause)
        );
        if answered {
            catalog.beat();
        }
        if opened {
            door.beat();
        }
        match overdue(&watched.liveness.look(), pause) {
            None => {
                service_manager::alive(was_stuck);
                was_stuck = false;
            }
            Some(late) => {
                tracing::error!("stuck: {late}; leaving the watchdog to act");
                service_manager::stuck(&late);
                was_stuck = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = watched.stop.requested() => return,
        }
    }
}

/// Whether the door opens, and whoever is behind it speaks or declines. Only silence is a bad sign.
async fn is_open(socket: &Path, patience: Duration) -> bool {
    let knock = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(PREFACE).await?;
        let mut frame = [0; 9];
        stream.read(&mut frame).await.map(drop)
    };
    // One that refuses has answered.
    tokio::time::timeout(patience, knock).await.is_ok()
}

/// Ends the process when the catalog or the runtime of the calls has been stuck for that long.
fn abort_when_stuck(watched: &Watched, stuck: Duration, runtime: &Handle) {
    let pause = (stuck / 4).max(Duration::from_secs(1));
    let catalog = watched.catalog.clone();
    let calls = watched.liveness.part("the calls", None);
    catalog.beat();
    calls.beat();
    loop {
        let began = Instant::now();
        std::thread::sleep(pause);
        if watched.stop.is_requested() {
            // The stop has its own deadlines.
            return;
        }
        if began.elapsed() > pause * 3 {
            // Whoever was stopped himself knows nothing of others.
            catalog.beat();
            calls.beat();
        }
        // Jobs and runtimes may take what time they need: nobody has asked for a watch over them.
        let mut seen = watched.liveness.look();
        seen.retain(|part| part.patience.is_none());
        if let Some(late) = overdue(&seen, stuck) {
            tracing::error!("stuck: {late}; ending, so that it can be started again");
            std::process::abort();
        }
        let (owner, catalog, calls) = (watched.owner.clone(), catalog.clone(), calls.clone());
        runtime.spawn(async move {
            calls.beat();
            if owner.answers(pause).await {
                catalog.beat();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_that_speaks_or_declines_is_open_and_a_silent_one_is_not() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("door.sock");
        let patience = Duration::from_secs(60);
        assert!(
            is_open(&path, patience).await,
            "nobody there is for others to notice"
        );
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        assert!(
            !is_open(&path, Duration::from_millis(50)).await,
            "nobody accepts"
        );
        let (open, ()) = tokio::join!(is_open(&path, patience), async {
            // The one that was not accepted in time comes first.
            drop(listener.accept().await.unwrap());
            drop(listener.accept().await.unwrap());
        });
        assert!(open, "declined");
    }
}
