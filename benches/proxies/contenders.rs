//! Who is measured, and how each is told to pass streams on at once.

use std::{env, net::SocketAddr, path::PathBuf, process::Command};

use crate::{
    Trouble,
    process::{Folder, Process, free_address, pinned},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// This program, see `relay.rs`.
    Relay,
    Gateway,
    Nginx,
    Haproxy,
    Caddy,
}

/// Where the programs are, and where they run.
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    /// The core of the proxies, if there is one for them alone.
    pub(crate) core: Option<usize>,
    /// So many connections are allowed, two for each stream: more than any row opens.
    pub(crate) connections: usize,
}

/// How a contender is started.
#[derive(Clone, Copy, Default)]
pub(crate) struct Start<'a> {
    /// Flags for the gateway.
    pub(crate) flags: &'a [&'a str],
    /// A program that runs it, with its flags.
    pub(crate) under: &'a [&'a str],
}

/// Between what a contender stands, and how it may fill its place.
struct Place<'a> {
    folder: &'a Folder,
    listen: SocketAddr,
    upstream: SocketAddr,
    connections: usize,
    /// Without the process that looks after nginx's worker.
    alone: bool,
}

impl Contender {
    pub(crate) const ALL: [Self; 5] = [
        Self::Relay,
        Self::Gateway,
        Self::Nginx,
        Self::Haproxy,
        Self::Caddy,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "bare relay",
            Self::Gateway => "gateway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// Whether it is measured along the axes of growth, which takes long.
    pub(crate) fn grows(self) -> bool {
        matches!(self, Self::Gateway | Self::Nginx)
    }

    pub(crate) fn start(
        self,
        programs: &Programs,
        upstream: SocketAddr,
        start: Start<'_>,
    ) -> Result<Process, Trouble> {
        let unable = |error| Trouble::Unable(format!("{error}"));
        let folder = Folder::new(self.name()).map_err(unable)?;
        let address = free_address().map_err(unable)?;
        let program = self.program(programs)?;
        let mut command = match start.under {
            [] => pinned(programs.core, &program),
            [under, flags @ ..] => {
                let mut command = pinned(programs.core, &found(under)?);
                command.args(flags).arg(&program);
                command
            }
        };
        let alone = !start.under.is_empty();
        let place = Place {
            folder: &folder,
            listen: address,
            upstream,
            connections: programs.connections,
            alone,
        };
        self.configure(&mut command, &place, start.flags)
            .map_err(unable)?;
        let process = Process::start(command, address, folder)?;
        match self {
            Self::Nginx if !alone => process.worker(),
            _ => Ok(process),
        }
    }

    fn program(self, programs: &Programs) -> Result<PathBuf, Trouble> {
        match self {
            Self::Relay => env::current_exe().map_err(|error| Trouble::Unable(error.to_string())),
            Self::Gateway if programs.gateway.exists() => Ok(programs.gateway.clone()),
            Self::Gateway => Err(Trouble::Unable(format!(
                "not built: {}",
                programs.gateway.display()
            ))),
            Self::Nginx | Self::Haproxy | Self::Caddy => found(self.name()),
        }
    }

    fn configure(
        self,
        command: &mut Command,
        place: &Place<'_>,
        flags: &[&str],
    ) -> std::io::Result<()> {
        let [listen, upstream] = [place.listen, place.upstream].map(|one| one.to_string());
        let folder = place.folder;
        match self {
            Self::Relay => {
                command.args(["--bench", "--relay", &listen, "--upstream", &upstream]);
            }
            Self::Gateway => {
                for (name, _) in env::vars().filter(|(name, _)| name.starts_with("GATEWAY_")) {
                    command.env_remove(name);
                }
                let upstream = format!("http://{upstream}");
                command.args(["--listen", &listen, "--upstream", &upstream]);
                command.args(["--metrics", "127.0.0.1:0"]).args(flags);
            }
            Self::Nginx => {
                let file = folder.write("nginx.conf", &nginx(place))?;
                command.args(["-e", "stderr", "-p"]).arg(&folder.0);
                command.arg("-c").arg(file);
            }
            Self::Haproxy => {
                let file = folder.write("haproxy.cfg", &haproxy(place))?;
                command.args(["-db", "-f"]).arg(file);
            }
            Self::Caddy => {
                let file = folder.write("Caddyfile", &caddy(place))?;
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(file).env("GOMAXPROCS", "1");
                for home in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
                    command.env(home, &folder.0);
                }
            }
        }
        Ok(())
    }
}

/// Also where Debian puts servers, which is not in everybody's path.
fn found(program: &str) -> Result<PathBuf, Trouble> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(program));
    let file = files.find(|file| file.is_file());
    file.ok_or_else(|| Trouble::Unable(format!("{program} is not installed")))
}

fn nginx(place: &Place<'_>) -> String {
    let Place {
        listen, upstream, ..
    } = place;
    // with a sixteenth left it drops connections whose request is not there yet
    let connections = place.connections + place.connections / 8;
    let folder = place.folder.0.display();
    let root = if is_root() { "user root;" } else { "" };
    let master = if place.alone { "off" } else { "on" };
    format!(
        "daemon off;
master_process {master};
{root}
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    send_timeout 1h;
    upstream origin {{ server {upstream}; keepalive 1024; }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"
    )
}

fn haproxy(place: &Place<'_>) -> String {
    let Place {
        listen, upstream, ..
    } = place;
    // it counts two files for each, and some of its own
    let streams = place.connections / 2 - 50;
    format!(
        "global
    nbthread 1
    maxconn {streams}
defaults
    mode http
    option http-no-delay
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend streams
    bind {listen}
    default_backend origin
backend origin
    server origin {upstream}
"
    )
}

fn caddy(place: &Place<'_>) -> String {
    let (host, port, upstream) = (place.listen.ip(), place.listen.port(), place.upstream);
    format!(
        "{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind {host}
    reverse_proxy {upstream} {{
        flush_interval -1
    }}
}}
"
    )
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}
