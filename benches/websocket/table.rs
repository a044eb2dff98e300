//! What is printed.

/// One line of the table: what was measured, of SSE and of WebSocket.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) cells: [String; 2],
    /// The second by the first.
    pub(crate) ratio: String,
}

impl Row {
    /// What is no number, or none that can be divided.
    pub(crate) fn told(what: &str, cells: [String; 2]) -> Self {
        Self {
            what: what.to_owned(),
            cells,
            ratio: String::new(),
        }
    }

    pub(crate) fn counted(what: &str, counts: [u64; 2]) -> Self {
        Self {
            what: what.to_owned(),
            cells: counts.map(|count| count.to_string()),
            ratio: format!("{:.2}", counts[1] as f64 / counts[0] as f64),
        }
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!("| | SSE | WebSocket | WebSocket / SSE |");
    println!("|---|---|---|---|");
    for Row { what, cells, ratio } in rows {
        println!("| {what} | {} | {} | {ratio} |", cells[0], cells[1]);
    }
}
