/// A request extension: the drain had started when it came, and its response will be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late;
