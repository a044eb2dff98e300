//! Connections to the upstream between two requests.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

/// Connections without a request, the one that waits longest in front.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    sockets: Vec<(Instant, Socket)>,
    /// Whether somebody will close those that nobody takes.
    reaped: bool,
}

pub(crate) type Socket = TokioIo<TcpStream>;

/// Shorter than the 5 s after which uvicorn and Node close an idle connection: not to be the one
/// who writes to it at that moment matters more than a saved handshake.
const LONGEST: Duration = Duration::from_secs(4);

/// How many connections may wait.
const MOST: usize = 256;

impl Idle {
    /// One that the upstream has not closed.
    pub(crate) fn take(&self) -> Option<Socket> {
        loop {
            let (since, socket) = self.lock().sockets.pop()?;
            if since.elapsed() >= LONGEST {
                // Then all are too old; they go when they are reaped.
                return None;
            }
            if is_quiet(socket.inner()) {
                return Some(socket);
            }
        }
    }

    pub(crate) fn put(self: &Arc<Self>, socket: Socket) {
        let mut waiting = self.lock();
        if waiting.sockets.len() < MOST {
            waiting.sockets.push((Instant::now(), socket));
        }
        if !mem::replace(&mut waiting.reaped, true) {
            tokio::spawn(self.clone().reap());
        }
    }

    /// Closes what nobody has taken, until there is nothing.
    async fn reap(self: Arc<Self>) {
        while let Some(next) = self.close_old() {
            sleep_until(next).await;
        }
    }

    /// When it is time to do it again.
    fn close_old(&self) -> Option<Instant> {
        let mut waiting = self.lock();
        let sockets = &mut waiting.sockets;
        sockets.retain(|(since, _)| since.elapsed() < LONGEST);
        let next = sockets.first().map(|(since, _)| *since + LONGEST);
        waiting.reaped = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither closed nor talking out of turn.
fn is_quiet(socket: &TcpStream) -> bool {
    let read = socket.try_read(&mut [0]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
