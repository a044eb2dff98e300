//! An upstream that answers as OpenAI and Anthropic do, from recordings, and goes wrong where the
//! path of a request says.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::sleep,
};

/// The protocols, each with its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recording {
    Chat,
    Responses,
    Messages,
}

/// What the upstream does with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Ends it properly behind so many bytes.
    End(usize),
    /// Closes the connection behind so many bytes, without the last chunk.
    Break(usize),
    /// Says no more behind so many bytes but a comment now and then, if it is between two events.
    Hang(usize),
    /// Refuses with this status, and says why as the provider does.
    Refuse(u16),
    /// Closes the connection before the answer.
    Close,
}

/// Dropped, it stops.
pub(crate) struct Recorded {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                      cache-control: no-cache\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";

/// Between two comments of an upstream that hangs.
const PULSE: Duration = Duration::from_millis(50);

impl Recording {
    pub(crate) const ALL: [Self; 3] = [Self::Chat, Self::Responses, Self::Messages];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }

    /// Where its requests go, behind the base of the API.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Chat => include_bytes!("../sdks/openai_chat.sse"),
            Self::Responses => include_bytes!("../sdks/openai_responses.sse"),
            Self::Messages => include_bytes!("../sdks/anthropic_messages.sse"),
        }
    }

    /// All of it.
    pub(crate) fn whole(self) -> Deed {
        Deed::End(self.bytes().len())
    }

    /// Behind the blank line of each event, in order; the last is the end.
    pub(crate) fn boundaries(self) -> Vec<usize> {
        let pairs = self.bytes().windows(2).enumerate();
        pairs
            .filter(|(_, pair)| pair == b"\n\n")
            .map(|(at, _)| at + 2)
            .collect()
    }

    fn refusal(self, status: u16) -> String {
        match (self, status) {
            (Self::Messages, 429) => {
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your rate limit."},"request_id":"req_011CfM2gQ7nXhT4v0sKzWq9L"}"#
            }
            (Self::Messages, _) => {
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_011CfM2gQ7nXhT4v0sKzWq9L"}"#
            }
            (Self::Chat | Self::Responses, 429) => {
                r#"{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#
            }
            (Self::Chat | Self::Responses, _) => {
                r#"{"error":{"message":"The server is overloaded","type":"server_error","param":null,"code":null}}"#
            }
        }
        .to_owned()
    }
}

impl Deed {
    /// The base of an API that does this after `delay`.
    pub(crate) fn base(self, delay: Duration) -> String {
        let (what, number) = match self {
            Self::End(at) => ("end", at),
            Self::Break(at) => ("break", at),
            Self::Hang(at) => ("hang", at),
            Self::Refuse(status) => ("refuse", status.into()),
            Self::Close => ("close", 0),
        };
        format!("/{}/{what}/{number}", delay.as_millis())
    }
}

impl Recorded {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Whoever leaves in the middle is of no interest.
                tokio::spawn(async move { answer(client).await.unwrap_or_default() });
            }
        });
        Self {
            address,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let request = read_request(&mut client).await?;
    let (recording, delay, deed) =
        parse(&request).unwrap_or_else(|| panic!("a path that says what to do: {request}"));
    if !delay.is_zero() {
        sleep(delay).await;
    }
    match deed {
        Deed::End(at) => {
            send(&mut client, recording, at).await?;
            client.write_all(b"0\r\n\r\n").await?;
        }
        Deed::Break(at) => send(&mut client, recording, at).await?,
        Deed::Hang(at) => {
            send(&mut client, recording, at).await?;
            hang(&mut client, recording.boundaries().contains(&at)).await?;
        }
        Deed::Refuse(status) => {
            let body = recording.refusal(status);
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\nconnection: close\r\n\r\n"
            );
            client.write_all((head + &body).as_bytes()).await?;
        }
        Deed::Close => {}
    }
    client.shutdown().await
}

async fn send(client: &mut TcpStream, recording: Recording, at: usize) -> io::Result<()> {
    let mut bytes = STREAM.as_bytes().to_vec();
    if at > 0 {
        bytes.extend(chunk(&recording.bytes()[..at]));
    }
    client.write_all(&bytes).await
}

/// Until the client leaves.
async fn hang(client: &mut TcpStream, between_events: bool) -> io::Result<()> {
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = client.read(&mut byte) => return Ok(()),
            () = sleep(PULSE) => {}
        }
        if between_events {
            client.write_all(&chunk(b": still here\n\n")).await?;
        }
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

/// Reads a request with its body, which has a length; returns its path.
async fn read_request(client: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| length.trim().parse().expect("a length"));
            if bytes.len() >= end + 4 + length {
                let path = head.split(' ').nth(1).expect("a path");
                return Ok(path.to_owned());
            }
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `/delay/what/number` and the path of the API.
fn parse(path: &str) -> Option<(Recording, Duration, Deed)> {
    let recording = Recording::ALL
        .into_iter()
        .find(|recording| path.ends_with(recording.path()))?;
    let base = path.strip_suffix(recording.path())?;
    let mut parts = base.split('/').skip(1);
    let delay = Duration::from_millis(parts.next()?.parse().ok()?);
    let what = parts.next()?;
    let number: usize = parts.next()?.parse().ok()?;
    let deed = match what {
        "end" => Deed::End(number),
        "break" => Deed::Break(number),
        "hang" => Deed::Hang(number),
        "refuse" => Deed::Refuse(number.try_into().ok()?),
        "close" => Deed::Close,
        _ => return None,
    };
    Some((recording, delay, deed))
}
