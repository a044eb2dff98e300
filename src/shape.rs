/// The bytes of a heartbeat.
///
/// None of them is safe for every client, though all are legal between events: many libraries make an
/// empty event of a comment that has a blank line behind it, others lose the next event when it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatShape {
    /// What this client survives, told from its request and its stream; the default.
    ///
    /// [`CommentLine`](Self::CommentLine) where the request's `Accept` names `text/event-stream`
    /// or the stream has carried an id, [`BlankLines`](Self::BlankLines) or nothing for Google's
    /// libraries, [`CommentBlock`](Self::CommentBlock) for all others (the SDKs of OpenAI and
    /// Anthropic, hand-written loops, curl). Ids are looked for in the first 32 events; of a later
    /// one it depends on the other layers whether it is seen.
    #[default]
    Auto,
    /// `: keep-alive\n`. Loses the next event in code that splits at blank lines and then looks at
    /// how a part begins, Google's libraries among it.
    CommentLine,
    /// `: keep-alive\n\n`. An extra, empty event in `@microsoft/fetch-event-source`, and in the
    /// Python library of OpenAI where the stream has ids.
    CommentBlock,
    /// Two blank lines, in the stream's own line ends.
    BlankLines,
    /// Nothing.
    Silent,
}

impl HeartbeatShape {
    /// The shape as words joined by `_`, for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::CommentLine => "comment_line",
            Self::CommentBlock => "comment_block",
            Self::BlankLines => "blank_lines",
            Self::Silent => "silent",
        }
    }
}
