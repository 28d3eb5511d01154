//! The life of a connection: HTTP/2 and nothing else, until its peer leaves, it has had no call for
//! too long, or kmerged stops.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | [`serve`] | the ways in | when a stop is requested, then once all connections have ended |
//! | one per connection | its bytes, and its place among the connections | see above |
//! | one per call, by hyper | the call, and its place among the calls | with its answer |
//!
//! A peer that speaks HTTP/1.1 does not begin as HTTP/2 does, and its connection is closed.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use super::guard::Guard;
use super::listener::accept::{Arrival, Door};
use super::listener::complaints::Complaints;
use crate::config::Limits;
use crate::shutdown::Stop;

/// What a client may send as headers, in bytes.
const HEADER_BYTES: u32 = 8 * 1024;

/// HTTP/2 windows: an upload fills a connection without stalling, and no more.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that a peer may reset before they were looked at, and resets that it may make us send:
/// more ends the connection. A client that gives up calls in earnest stays far below.
const PENDING_RESETS: usize = 20;
const OWN_RESETS: usize = 256;

/// How long an idle peer may take to close after it was told to.
const LEAVING: Duration = Duration::from_secs(10);

/// Serves until a stop is requested, then until the open calls have ended.
pub async fn serve(routes: Routes, door: Door, limits: Limits, stop: Stop) {
    let room = Arc::new(Room {
        guard: Guard::new(routes, limits),
        http: http(limits),
        idle: limits.idle,
        handshakes: Complaints::default(),
        stop,
    });
    let connections = TaskTracker::new();
    loop {
        let arrival = tokio::select! {
            arrival = door.next() => arrival,
            () = room.stop.requested() => break,
        };
        connections.spawn(attend(arrival, Arc::clone(&room)));
    }
    // Nobody connects any more, instead of waiting for an answer that does not come.
    drop(door);
    connections.close();
    connections.wait().await;
}

fn http(limits: Limits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(OWN_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http
}

/// What all connections share.
struct Room {
    guard: Guard,
    http: http2::Builder<TokioExecutor>,
    idle: Duration,
    handshakes: Complaints,
    stop: Stop,
}

async fn attend(arrival: Arrival, room: Arc<Room>) {
    let caller = arrival.caller;
    let settled = tokio::select! {
        settled = arrival.settle() => settled,
        () = room.stop.requested() => return,
    };
    let settled = match settled {
        Ok(settled) => settled,
        Err(error) => {
            if let Some(more) = room.handshakes.due() {
                tracing::warn!(peer = %caller.peer, %error, more, "a TLS handshake failed");
            }
            return;
        }
    };
    // Held to the end.
    let _share = settled.share;
    let activity = Activity::new();
    let service = service_fn(|request| {
        let (room, pass) = (Arc::clone(&room), settled.pass.clone());
        let open = activity.begin();
        async move { Ok::<_, Infallible>(room.guard.call(request, caller, &pass, open).await) }
    });
    let connection = room
        .http
        .serve_connection(TokioIo::new(settled.wire), service);
    let mut connection = pin!(connection);
    let mut leaves = None;
    loop {
        let due = leaves.unwrap_or_else(|| activity.idle_since() + room.idle);
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %caller.peer, %error, "a connection broke");
                }
                return;
            }
            () = room.stop.requested() => break,
            () = tokio::time::sleep_until(due) => {
                if leaves.is_some() {
                    return;
                }
                if activity.idle_since() + room.idle <= Instant::now() {
                    connection.as_mut().graceful_shutdown();
                    leaves = Some(Instant::now() + LEAVING);
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    if let Err(error) = connection.await {
        tracing::debug!(peer = %caller.peer, %error, "a connection broke while it was closed");
    }
}

/// Since when a connection has had no call.
#[derive(Debug, Clone)]
struct Activity {
    state: Arc<Mutex<(usize, Instant)>>,
}

/// A call that is open.
#[derive(Debug)]
struct Open(Activity);

impl Activity {
    fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new((0, Instant::now()))),
        }
    }

    fn begin(&self) -> Open {
        self.change(|(open, _)| *open += 1);
        Open(self.clone())
    }

    /// The end of the last call; now, while there is one.
    fn idle_since(&self) -> Instant {
        self.change(|(open, since)| if *open > 0 { Instant::now() } else { *since })
    }

    fn change<T>(&self, change: impl FnOnce(&mut (usize, Instant)) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|(open, since)| {
            *open -= 1;
            *since = Instant::now();
        });
    }
}
