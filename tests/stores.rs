//! What a store must do, tried on ours and on broken ones, and how much of it ours holds.

#![cfg(feature = "test-util")]

use std::time::Duration;

use tower_sse::resume::{MemoryStore, conformance};

fn store() -> MemoryStore {
    MemoryStore::new().lease(Duration::from_secs(2))
}

#[tokio::test(start_paused = true)]
async fn memory_keeps_every_rule() {
    let store = store();
    conformance::check(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_rule_in_real_time() {
    let store = store();
    conformance::check(async || store.clone()).await;
}
