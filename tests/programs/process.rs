//! Programs as children of a test: what they write is kept, and none outlives the test.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::time::{self, Instant};

/// How long a condition may take on a slow, busy machine before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; panics when there is none for [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    let answer = answer_of(probe).await;
    answer.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Asks until there is an answer, but no longer than for [`PATIENCE`].
pub(crate) async fn answer_of<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = probe().await;
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
}

/// A running program. Dropped, also by a panic, it is killed; with all that it has started, if it
/// was started as a process group of its own.
pub(crate) struct Process {
    child: Child,
    /// Whether its id is also that of a group, and surely no other's.
    leads_group: bool,
    stdout: Output,
    stderr: Output,
}

/// What a program has written to one of its streams so far.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = command.spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            stdout: Output::of(child.stdout.take().expect("a pipe")),
            stderr: Output::of(child.stderr.take().expect("a pipe")),
            child,
            leads_group: false,
        }
    }

    /// The same, in a process group of its own.
    pub(crate) fn start_group(command: &mut Command) -> Self {
        let mut process = Self::start(command.process_group(0));
        process.leads_group = true;
        process
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.stdout.0.lock().unwrap().clone()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.0.lock().unwrap()).into_owned()
    }

    /// Waits for a line on standard output that starts with `prefix`; returns the rest of it.
    pub(crate) async fn line(&mut self, prefix: &str) -> String {
        let line = self.line_or_end(prefix).await;
        line.unwrap_or_else(|| panic!("ended without {prefix:?}: {}", self.stderr()))
    }

    /// The same, but none if the program ends before.
    pub(crate) async fn line_or_end(&mut self, prefix: &str) -> Option<String> {
        eventually(&format!("the line {prefix:?}"), async || {
            let ended = self.exit_status().is_some();
            let line = self.line_so_far(prefix);
            (line.is_some() || ended).then_some(line)
        })
        .await
    }

    fn line_so_far(&self, prefix: &str) -> Option<String> {
        let stdout = self.stdout();
        let text = String::from_utf8_lossy(&stdout);
        let (complete, _) = text.rsplit_once('\n')?;
        let mut lines = complete.lines();
        lines.find_map(|line| line.strip_prefix(prefix).map(str::to_owned))
    }

    /// How the program ended, once it has and all that it wrote is here.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child of ours");
        // once it is reaped, its id may be given to another process
        self.leads_group &= status.is_none();
        status.filter(|_| self.stdout.is_closed() && self.stderr.is_closed())
    }

    /// Waits for the end of the program.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        eventually("the end of the program", async || self.exit_status()).await
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `TERM`, `INT` or another signal to the program alone.
    pub(crate) fn signal(&self, name: &str) {
        kill(name, &self.child.id().to_string());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leads_group {
            kill("KILL", &format!("-{}", self.child.id()));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!(
                "--- stderr of process {}:\n{}",
                self.child.id(),
                self.stderr()
            );
        }
    }
}

impl Output {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let sink = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                sink.0.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        output
    }

    /// The reading thread drops its handle when the pipe ends.
    fn is_closed(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// By the shell's own `kill`, which every machine has; the standard library has none.
fn kill(signal: &str, target: &str) {
    let script = format!("kill -s {signal} -- {target}");
    let _ = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .status();
}
