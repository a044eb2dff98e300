//! The gateway example as a program: built once, started on a free port.

use std::{
    env,
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use super::process::Process;

/// A running gateway.
pub(crate) struct Gateway {
    process: Process,
    pub(crate) address: String,
}

impl Gateway {
    /// A gateway in front of its own demo platform.
    pub(crate) async fn demo(flags: &[&str]) -> Self {
        Self::start(&[&["--listen", "127.0.0.1:0"], flags].concat()).await
    }

    /// A gateway in front of `upstream`.
    pub(crate) async fn before(upstream: &str, flags: &[&str]) -> Self {
        Self::demo(&[&["--upstream", upstream], flags].concat()).await
    }

    pub(crate) async fn start(flags: &[&str]) -> Self {
        let mut process = Process::start(command().args(flags));
        let address = process.line("gateway listening on http://").await;
        Self { process, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Deref for Gateway {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The gateway's program, with no flags from the environment but one: of many gateways at once, only
/// one could have the address that metrics have by default.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GATEWAY_"))
    {
        command.env_remove(name);
    }
    command.env("GATEWAY_METRICS", "off");
    command
}

/// `cargo test` builds the examples, `cargo test --test gateway` does not: cargo is asked, once.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // <target>/<profile>/deps/<this test>
        let test = env::current_exe().expect("the path of this test");
        let profile = test
            .parent()
            .and_then(|deps| deps.parent())
            .expect("target/debug/deps");
        let name = profile
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a profile");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "gateway"])
            .args(["--profile", if name == "debug" { "dev" } else { name }])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .arg("--target-dir")
            .arg(profile.parent().expect("target"))
            // those of this test: the gateway knows what the test wants of it, and is built once
            .args(["--no-default-features", "--features"])
            .arg(features())
            .output()
            .expect("cargo");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        profile.join("examples/gateway")
    })
}

fn features() -> String {
    let features = [
        // not without
        ("metrics", true),
        ("resume", cfg!(feature = "resume")),
        ("redis", cfg!(feature = "redis")),
        ("test-util", cfg!(feature = "test-util")),
        ("tracing", cfg!(feature = "tracing")),
    ];
    let features = features.iter().filter(|(_, on)| *on);
    let names: Vec<_> = features.map(|(name, _)| *name).collect();
    names.join(",")
}
