//! A connection that breaks where a test wants it.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

/// A TCP proxy that cuts the connection to the client right behind certain bytes.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    cuts: Cuts,
    held: watch::Sender<bool>,
    task: AbortHandle,
}

/// The bytes behind which it is still to cut, in this order.
type Cuts = Arc<Mutex<VecDeque<Vec<u8>>>>;

impl Cutter {
    pub(crate) async fn before(server: SocketAddr, cuts: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let cuts = cuts.iter().map(|cut| cut.as_bytes().to_vec());
        let cuts = Cuts::new(Mutex::new(cuts.collect()));
        let held = watch::Sender::new(false);
        let shared = (cuts.clone(), held.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (cuts, held) = shared.clone();
                tokio::spawn(connection(client, server, cuts, held));
            }
        });
        Self {
            address,
            cuts,
            held,
            task: task.abort_handle(),
        }
    }

    /// Whether a connection that is to be cut falls silent instead, until this is taken back: time
    /// for the client to read what has come.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How many cuts are still to come.
    pub(crate) fn left(&self) -> usize {
        self.cuts.lock().unwrap().len()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    cuts: Cuts,
    held: watch::Sender<bool>,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut requests, to_client) = client.into_split();
    let (responses, mut to_server) = server.into_split();
    // Both connections are closed when either ends.
    tokio::select! {
        end = copy(&mut requests, &mut to_server) => end.map(drop),
        end = hand_on(responses, to_client, &cuts, &held) => end,
    }
}

async fn hand_on(
    mut responses: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
    cuts: &Cuts,
    held: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut sent = 0;
    loop {
        let end = responses.read_buf(&mut bytes).await? == 0;
        let cut = next_cut(cuts, &bytes);
        let until = cut.unwrap_or(bytes.len());
        to_client.write_all(&bytes[sent..until]).await?;
        sent = until;
        if cut.is_some() {
            let _ = held.subscribe().wait_for(|held| !held).await;
        }
        if end || cut.is_some() {
            return to_client.shutdown().await;
        }
    }
}

/// Where to cut, if it is time; done once.
fn next_cut(cuts: &Cuts, bytes: &[u8]) -> Option<usize> {
    let mut cuts = cuts.lock().unwrap();
    let next = cuts.front()?;
    let at = bytes.windows(next.len()).position(|part| part == next)? + next.len();
    cuts.pop_front();
    Some(at)
}
