//! Counts what each thread allocates.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, with a look at its calls.
struct Counting;

/// What this thread did so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allocations {
    /// How often it asked for memory.
    pub(crate) count: usize,
    /// How many bytes it holds; what another thread frees stays in.
    pub(crate) held: isize,
}

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static SO_FAR: Cell<Allocations> = const { Cell::new(Allocations { count: 0, held: 0 }) };
}

impl Allocations {
    pub(crate) fn so_far() -> Self {
        SO_FAR.get()
    }
}

fn add(count: usize, bytes: isize) {
    let mut so_far = SO_FAR.get();
    so_far.count += count;
    so_far.held += bytes;
    SO_FAR.set(so_far);
}

// SAFETY: all is done by the system's allocator; the numbers need none.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(1, layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(0, -(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
