//! Programs as children: each in a folder of its own, pinned to a core, and gone when it is dropped.

use std::{
    env, fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::Trouble;

/// A proxy that runs.
pub(crate) struct Process {
    child: Child,
    /// The one whose CPU and memory count: nginx has a worker.
    pub(crate) id: u32,
    pub(crate) address: SocketAddr,
    folder: Folder,
}

/// A temporary folder.
pub(crate) struct Folder(pub(crate) PathBuf);

/// This program, and those that it starts, go before what else the machine does, where that may be.
pub(crate) struct First {
    /// What the session was worth before.
    before: Option<String>,
}

/// Of the session: where there is one, the worth of a process does not count beyond it.
const SESSION: &str = "/proc/self/autogroup";

const WORTH: &str = "-10";

/// How long a program may take until it can be connected to; under valgrind it is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many seconds it may take to leave.
const LEAVE: usize = 10;

const TURN: Duration = Duration::from_millis(5);

impl Process {
    /// Starts `command`, which will listen on `address`.
    pub(crate) fn start(
        mut command: Command,
        address: SocketAddr,
        folder: Folder,
    ) -> Result<Self, Trouble> {
        let said = fs::File::create(folder.0.join("stderr"));
        let child = said.and_then(|said| {
            command
                .current_dir(&folder.0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(said)
                .spawn()
        });
        let child = child.map_err(|error| Trouble::Unable(format!("{command:?}: {error}")))?;
        let mut started = Self {
            id: child.id(),
            child,
            address,
            folder,
        };
        started.listens()?;
        Ok(started)
    }

    fn listens(&mut self) -> Result<(), Trouble> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.has_ended();
            if ended || Instant::now() > deadline {
                let said = self.said();
                let last = said.lines().last().unwrap_or("and says nothing");
                return Err(Trouble::Unable(format!("it does not listen: {last}")));
            }
            thread::sleep(TURN);
        }
        Ok(())
    }

    /// Measures its only child instead, which comes a little after it listens.
    pub(crate) fn worker(mut self) -> Result<Self, Trouble> {
        let children = format!("/proc/{0}/task/{0}/children", self.id);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let children = fs::read_to_string(&children).unwrap_or_default();
            let child = children.split_whitespace().next();
            if let Some(child) = child.and_then(|child| child.parse().ok()) {
                self.id = child;
                return Ok(self);
            }
            thread::sleep(TURN);
        }
        Err(Trouble::Unable("it has no worker".to_owned()))
    }

    /// Asks it to leave, waits until it has, and returns what it said.
    pub(crate) fn stop(mut self) -> String {
        self.leave();
        self.said()
    }

    /// Told again each second: nginx without a master may miss a signal that comes before it waits.
    fn leave(&mut self) {
        for _ in 0..LEAVE {
            signal("TERM", self.child.id());
            let told = Instant::now();
            while told.elapsed() < Duration::from_secs(1) {
                if self.has_ended() {
                    return;
                }
                thread::sleep(TURN);
            }
        }
        signal("KILL", self.id);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.0.join("stderr"));
        said.unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.leave();
        }
    }
}

impl First {
    pub(crate) fn new() -> Self {
        let id = process::id().to_string();
        let _ = Command::new("renice")
            .args(["-n", WORTH, "-p", &id])
            .output();
        let session = fs::read_to_string(SESSION).ok();
        let before =
            session.and_then(|session| Some(session.trim().rsplit_once(' ')?.1.to_owned()));
        let _ = fs::write(SESSION, WORTH);
        Self { before }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(SESSION, before);
        }
    }
}

impl Folder {
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let name = format!("tower-sse-proxies-{}-{name}", process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Pinned to the core, and told to leave when we are gone, however that comes.
pub(crate) fn pinned(core: Option<usize>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.arg(program);
    command
}

/// All threads of this program stay there; those that it starts as well, until they are moved.
pub(crate) fn pin(core: usize) -> Result<(), Trouble> {
    let [core, id] = [core.to_string(), process::id().to_string()];
    let pinned = Command::new("taskset")
        .args(["-acp", &core, &id])
        .output()?;
    let pinned = pinned.status.success();
    pinned
        .then_some(())
        .ok_or_else(|| Trouble::Unable(format!("taskset: cannot use core {core}")))
}

/// Lets this program, and those that it starts, open so many files if that may be, and tells how many
/// they can.
pub(crate) fn raise_files(files: usize) -> usize {
    let [id, limit] = [
        process::id().to_string(),
        format!("--nofile={files}:{files}"),
    ];
    let _ = Command::new("prlimit")
        .args(["--pid", &id, &limit])
        .output();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    limit.unwrap_or(1024)
}

/// Where nobody listens.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// By the shell's own `kill`, which every machine has; the standard library has none.
pub(crate) fn signal(name: &str, process: u32) {
    let script = format!("kill -s {name} -- {process}");
    let _ = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .status();
}
