//! The gateway and the browser, as the tests start them.

#![allow(dead_code)]

#[path = "../../tests/programs/browser.rs"]
pub(crate) mod browser;
// The browser's page may ask for it.
#[path = "../../tests/programs/client.rs"]
pub(crate) mod client;
#[path = "../../tests/programs/folder.rs"]
pub(crate) mod folder;
#[path = "../../tests/programs/gateway.rs"]
pub(crate) mod gateway;
#[path = "../../tests/programs/process.rs"]
pub(crate) mod process;
