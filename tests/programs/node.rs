//! Clients in JavaScript: the packages of `tests/clients`, which `tests/run` puts into the target
//! folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{folder::target, process::Process};

/// The client scripts and pages.
pub(crate) const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Where a package is.
pub(crate) fn package(name: &str) -> PathBuf {
    let path = packages().join(name);
    assert!(path.exists(), "no {}: run tests/run", path.display());
    path
}

/// A client script.
pub(crate) fn node(script: &str, arguments: &[&str]) -> Process {
    Process::start(command(Path::new(CLIENTS).join(script)).args(arguments))
}

/// A command that runs any script with the packages.
pub(crate) fn command(script: impl AsRef<Path>) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", packages()).arg(script.as_ref());
    command
}

fn packages() -> PathBuf {
    target().join("clients/node_modules")
}
