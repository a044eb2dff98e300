//! What is done to a socket that was accepted, so that no client keeps it for ever. To copy: it
//! needs `socket2` with its feature `all`, and `tokio-io-timeout`.
//!
//! hyper waits for a client as long as the system does, and Linux waits a quarter of an hour for
//! one that vanished, and for ever for one that only does not read. `StallLayer` ends the stream,
//! not the socket: only its owner can do that. Nothing here does it alone:
//!
//! | | its process is gone | it does not read | its machine is gone |
//! |---|---|---|---|
//! | its system | says so | acknowledges, and lets nothing in | says nothing |
//! | is noticed by | hyper, at once | the write time-out | `TCP_USER_TIMEOUT` where something was sent (a heartbeat, say), keep-alive where nothing is |
//!
//! - **The write time-out** runs while hyper has bytes that the socket does not take, and cuts the
//!   connection. It begins when the buffers are full, some megabytes after the client stopped
//!   reading; and the system only reports room when a third of its buffer is free, so a client that
//!   takes longer for that much is cut off, too. Over TLS the socket below is what it belongs
//!   around.
//! - **`TCP_USER_TIMEOUT`** (Linux) is how long sent bytes may stay without an answer, or bytes
//!   wait for a window that is closed. It goes on when the program has closed the socket: without
//!   it the bytes that a client has not read stay in the system's memory for minutes.
//! - **Keep-alive** asks a machine that has been silent for [`IDLE`], every [`INTERVAL`], and gives
//!   up after [`PROBES`] without an answer. With `TCP_USER_TIMEOUT` set, Linux gives up after that
//!   time instead.
//! - **`TCP_NODELAY`**: an event is small, and must not wait for an acknowledgement of the one
//!   before.
//!
//! HTTP/2 has pings besides, which also find a proxy in the middle that is alive while the client is
//! not; see `server.rs`.

use std::{io, pin::Pin, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutWriter;
use tracing::debug;

/// A socket whose writes fail when its client takes none for too long.
pub(crate) type Socket = Pin<Box<TimeoutWriter<TcpStream>>>;

/// How long a client is silent before it is asked.
const IDLE: Duration = Duration::from_secs(30);

/// From one question to the next.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many questions a client may leave unanswered.
const PROBES: u32 = 3;

/// The socket with its options and its time-out. One that takes no option is served all the same.
pub(crate) fn prepared(socket: TcpStream, write_timeout: Duration) -> Socket {
    if let Err(error) = set_options(&socket, write_timeout) {
        debug!(%error, "a socket without its options");
    }
    let mut socket = TimeoutWriter::new(socket);
    socket.set_timeout(Some(write_timeout));
    Box::pin(socket)
}

fn set_options(socket: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive())?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(user_timeout(write_timeout)))?;
    #[cfg(not(target_os = "linux"))]
    let _ = write_timeout;
    Ok(())
}

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "macos",
    windows
))]
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(INTERVAL)
        .with_retries(PROBES)
}

/// Elsewhere not all of it can be said.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "macos",
    windows
)))]
fn keepalive() -> TcpKeepalive {
    let _ = (INTERVAL, PROBES);
    TcpKeepalive::new().with_time(IDLE)
}

/// In whole milliseconds, as an `int`; zero would mean the system's own.
#[cfg(target_os = "linux")]
fn user_timeout(time: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
    time.clamp(Duration::from_millis(1), LONGEST)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_has_its_options() {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let longest = Duration::from_millis(i32::MAX as u64);
        for (write_timeout, user_timeout) in [
            (Duration::from_millis(1_500), Duration::from_millis(1_500)),
            (Duration::from_nanos(1), Duration::from_millis(1)),
            (year, longest),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let _client = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let socket = prepared(accepted, write_timeout);
            assert_eq!(socket.timeout(), Some(write_timeout));
            let socket = SockRef::from(socket.get_ref());
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(user_timeout));
        }
    }
}
