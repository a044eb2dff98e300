//! The least that a proxy can do: bytes from one connection to the other, on one thread, and not a
//! look at them. Nothing that reads what it passes on can be expected to be faster.

use std::{cell::RefCell, io, net::SocketAddr, pin::Pin, task::ready};

use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::spawn_local,
};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

pub(crate) async fn relay(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        spawn_local(async move {
            let server = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            spawn_local(copy(from_client, to_server));
            copy(from_server, to_client).await
        });
    }
}

/// Until one side ends.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some(left) = pass(&mut from, &to).await? {
        if !left.is_empty() {
            to.write_all(&left).await?;
        }
    }
    to.shutdown().await
}

/// Passes one read on, and returns what the other side does not take now.
async fn pass(from: &mut OwnedReadHalf, to: &OwnedWriteHalf) -> io::Result<Option<Vec<u8>>> {
    std::future::poll_fn(|cx| {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Ok(None).into();
            }
            match to.try_write(bytes) {
                Ok(length) => Ok(Some(bytes[length..].to_vec())).into(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Ok(Some(bytes.to_vec())).into()
                }
                Err(error) => Err(error).into(),
            }
        })
    })
    .await
}
