/// How much may be unread.
#[derive(Clone, Copy, Debug)]
pub(in crate::resume) struct Bounds {
    pub(in crate::resume) count: usize,
    pub(in crate::resume) bytes: usize,
}

/// What may be unread while somebody reads, and how much stays for others.
pub(in crate::resume) const TAIL: Bounds = Bounds {
    count: 512,
    bytes: 64 * 1024,
};

impl Bounds {
    pub(super) fn half(self) -> Self {
        Self {
            count: self.count.div_ceil(2),
            bytes: self.bytes.div_ceil(2),
        }
    }

    /// There is nothing left of it.
    pub(in crate::resume) fn is_over(self) -> bool {
        self.count == 0 || self.bytes == 0
    }
}
