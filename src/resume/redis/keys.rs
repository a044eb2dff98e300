use crate::resume::StreamId;

/// The names of all keys: our own words and typed ids, never what a client sent.
///
/// Those of one stream share a hash tag, and with it a slot, so that a script may touch them all.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) prefix: String,
    /// What this process is called as a producer.
    pub(super) owner: String,
}

impl Keys {
    /// A hash: what the layer wants to know again, the owner, the last number and the end.
    pub(super) fn record(&self, stream: StreamId) -> String {
        format!("{}{{{stream}}}", self.prefix)
    }

    /// A Redis Stream of the events.
    pub(super) fn log(&self, stream: StreamId) -> String {
        format!("{}{{{stream}}}:log", self.prefix)
    }

    /// A string that is there as long as somebody says that the stream is read.
    pub(super) fn read(&self, stream: StreamId) -> String {
        format!("{}{{{stream}}}:read", self.prefix)
    }

    /// The stream whose log has this name.
    pub(super) fn stream(&self, log: &str) -> Option<StreamId> {
        let tagged = log.strip_prefix(&self.prefix)?.strip_suffix(":log")?;
        let id = tagged.strip_prefix('{')?.strip_suffix('}')?;
        id.parse().ok()
    }

    /// It is there as long as the producer of that name renews it.
    pub(super) fn lease_of(&self, owner: &str) -> String {
        format!("{}owner:{owner}", self.prefix)
    }

    pub(super) fn lease(&self) -> String {
        self.lease_of(&self.owner)
    }

    /// A Redis Stream that the blocking reader follows beside all others: whatever comes in it
    /// ends the wait.
    pub(super) fn wake(&self) -> String {
        format!("{}wake:{}", self.prefix, self.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_log_says_its_stream() {
        let stream = StreamId::random().unwrap();
        for prefix in ["tower-sse:", "", "{", "}:log"] {
            let keys = Keys {
                prefix: prefix.to_owned(),
                owner: "me".to_owned(),
            };
            assert_eq!(keys.stream(&keys.log(stream)), Some(stream), "{prefix}");
            for other in [
                keys.record(stream),
                keys.read(stream),
                keys.lease(),
                keys.wake(),
                "x".to_owned(),
            ] {
                assert_eq!(keys.stream(&other), None, "{other}");
            }
        }
    }
}
