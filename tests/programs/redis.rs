//! Redis on a free port of 127.0.0.1, with its data in a folder of its own.

use std::{fs, net::TcpListener, process::Command};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    folder::Folder,
    process::{Process, eventually},
};

/// Dropped, it is killed.
pub(crate) struct Redis {
    process: Process,
    folder: Folder,
    port: u16,
    options: Vec<String>,
}

/// A certificate for 127.0.0.1, its key, and the authority that nobody knows.
const CERTIFICATES: &str = "
    set -e
    new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
    openssl req -x509 $new -keyout ca.key -out ca.pem -subj /CN=ca -days 2
    openssl req $new -keyout key.pem -out request.pem -subj /CN=redis
    echo subjectAltName=IP:127.0.0.1 > names
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial \\
        -extfile names -out certificate.pem -days 2";

impl Redis {
    /// Without persistence.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// What is written outlives a restart.
    pub(crate) async fn start_persistent() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::start_in(Folder::new("redis"), options).await
    }

    /// Also with TLS, at the port that it returns; the file is that of the authority.
    pub(crate) async fn start_with_tls() -> (Self, u16, Vec<u8>) {
        let folder = Folder::new("redis");
        let made = Command::new("sh")
            .args(["-c", CERTIFICATES])
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        assert!(made.status.success(), "openssl: {made:?}");
        let authority = fs::read(format!("{}/ca.pem", folder.path())).expect("a certificate");
        let port = free_port();
        let options = format!(
            "--tls-port {port} --tls-cert-file certificate.pem --tls-key-file key.pem \
             --tls-ca-cert-file ca.pem --tls-auth-clients no"
        );
        let options = options.split(' ').map(str::to_owned).collect();
        (Self::start_in(folder, options).await, port, authority)
    }

    async fn start_in(folder: Folder, options: Vec<String>) -> Self {
        // Redis cannot choose a port by itself, and another program may be faster than it.
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = serve(&folder, port, &options).await {
                return Self {
                    process,
                    folder,
                    port,
                    options,
                };
            }
        }
        panic!("Redis found no free port");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Ends it without a warning.
    pub(crate) async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.exit().await;
    }

    /// Starts it again where it was.
    pub(crate) async fn restart(&mut self) {
        let process = serve(&self.folder, self.port, &self.options).await;
        self.process = process.expect("the port that it had");
    }

    /// It goes on to accept connections, but says nothing.
    pub(crate) fn freeze(&self) {
        self.process.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.process.signal("CONT");
    }
}

/// Starts Redis and waits until it is this one that answers; none if the port was taken.
async fn serve(folder: &Folder, port: u16, options: &[String]) -> Option<Process> {
    let port = port.to_string();
    let mut process = Process::start(
        Command::new("redis-server")
            .current_dir(folder.path())
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
            .args(options),
    );
    let started = eventually("Redis", async || match process.exit_status() {
        Some(_) => Some(false),
        None => is_in(folder, &port).await.then_some(true),
    })
    .await;
    if !started {
        let log = String::from_utf8_lossy(&process.stdout()).into_owned();
        assert!(log.contains("in use"), "Redis: {log}");
    }
    started.then_some(process)
}

/// Whether the Redis at this port works in this folder.
async fn is_in(folder: &Folder, port: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(format!("127.0.0.1:{port}")).await else {
        return false;
    };
    let _ = stream.write_all(b"CONFIG GET dir\r\nQUIT\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).contains(folder.path())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
