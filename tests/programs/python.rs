//! Scripts in Python, with the packages of `tests/sdks/requirements.txt`, which `tests/run` puts into
//! the target folder.

use std::{path::Path, process::Command};

use super::folder::target;

/// A command that runs the script.
pub(crate) fn python(script: impl AsRef<Path>) -> Command {
    let python = target().join("venv/bin/python");
    assert!(
        python.exists(),
        "no packages in {}: run tests/run",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(script.as_ref());
    command
}
