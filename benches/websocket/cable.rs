//! A connection between client and gateway that can be pulled out.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::Instant,
};

pub(crate) struct Cable {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: AbortHandle,
}

#[derive(Default)]
struct State {
    /// What connections first asked for, and when.
    asked: Vec<(String, Instant)>,
    open: Vec<AbortHandle>,
}

impl Cable {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = tokio::spawn(connection(client, server, Arc::clone(&shared)));
                lock(&shared).open.push(connection.abort_handle());
            }
        });
        Self {
            address,
            state,
            listening: listening.abort_handle(),
        }
    }

    /// Closes all that is open, in the middle of whatever it is, and tells when.
    pub(crate) fn cut(&self) -> Instant {
        let mut state = lock(&self.state);
        for connection in state.open.drain(..) {
            connection.abort();
        }
        state.asked.clear();
        Instant::now()
    }

    /// When this was first asked for since the last cut.
    pub(crate) fn asked(&self, path: &str) -> Option<Instant> {
        let state = lock(&self.state);
        let asked = state.asked.iter().find(|(asked, _)| asked == path);
        asked.map(|(_, at)| *at)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.listening.abort();
    }
}

async fn connection(
    mut client: TcpStream,
    server: SocketAddr,
    state: Arc<Mutex<State>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let path = String::from_utf8_lossy(&head)
        .split(' ')
        .nth(1)
        .map(str::to_owned);
    let asked = (path.unwrap_or_default(), Instant::now());
    lock(&state).asked.push(asked);
    let mut server = TcpStream::connect(server).await?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    server.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic")
}
