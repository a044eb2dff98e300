//! Instructions, counted by valgrind: the same on a busy machine.

use std::{
    env,
    process::{Command, exit},
};

/// Of this program, run as a process of its own with these arguments.
pub(crate) fn instructions(arguments: &[String]) -> u64 {
    let program = env::current_exe().expect("the path of this program");
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(arguments)
        .output();
    let Ok(counted) = counted else {
        eprintln!("valgrind is not installed");
        exit(1);
    };
    let said = String::from_utf8_lossy(&counted.stderr);
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("no count: {said}"))
}
