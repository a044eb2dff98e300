//! Foreign servers behind or before the gateway: Tornado and nginx, on free ports of 127.0.0.1.

use std::{env, fs, net::TcpListener, path::Path, process::Command};

use super::{
    client,
    folder::Folder,
    process::{Process, eventually},
    python::python,
};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstreams");

/// `tests/upstreams/tornado_server.py`.
pub(crate) struct Tornado {
    _process: Process,
    pub(crate) address: String,
}

impl Tornado {
    pub(crate) async fn start() -> Self {
        let mut process = Process::start(&mut python(Path::new(FILES).join("tornado_server.py")));
        let address = process.line("tornado listening on http://").await;
        Self {
            _process: process,
            address,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Appends an event to the stream of all clients; `fields` of `data`, `event` and `id`.
    pub(crate) async fn publish(&self, fields: &[(&str, &str)]) {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let status = client::post_form(&format!("{}/sse", self.url()), &form).await;
        assert_eq!(status, 204);
    }
}

/// nginx with `tests/upstreams/nginx.conf`: `/` with its defaults, `/unbuffered/` as its manual
/// recommends for event streams, both with gzip for every event stream.
pub(crate) struct Nginx {
    _process: Process,
    _folder: Folder,
    pub(crate) address: String,
}

impl Nginx {
    pub(crate) async fn before(upstream: &str) -> Self {
        let template = fs::read_to_string(Path::new(FILES).join("nginx.conf")).expect("nginx.conf");
        // nginx cannot choose a port by itself, and another program may be faster than it.
        for _ in 0..5 {
            let folder = Folder::new("nginx");
            let address = free_address();
            let config = template
                .replace("@FOLDER@", folder.path())
                .replace("@LISTEN@", &address)
                .replace("@UPSTREAM@", upstream);
            fs::write(Path::new(folder.path()).join("nginx.conf"), config)
                .expect("a file in target/tmp");
            if let Some(process) = serve(&folder, &address).await {
                return Self {
                    _process: process,
                    _folder: folder,
                    address,
                };
            }
        }
        panic!("nginx found no free port");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Starts nginx and waits until it is this one that answers; none if the port was taken.
async fn serve(folder: &Folder, address: &str) -> Option<Process> {
    let mut process = Process::start(
        Command::new("nginx")
            .env(
                "PATH",
                format!("{}:/usr/sbin", env::var("PATH").unwrap_or_default()),
            )
            .args(["-e", "stderr", "-c", "nginx.conf", "-p"])
            .arg(folder.path()),
    );
    let ready = format!("http://{address}/ready");
    let started = eventually("nginx", async || match process.exit_status() {
        Some(_) => Some(false),
        None => (client::text(&ready).await.ok()? == folder.path()).then_some(true),
    })
    .await;
    if !started {
        assert!(
            process.stderr().contains("in use"),
            "nginx: {}",
            process.stderr()
        );
    }
    started.then_some(process)
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
