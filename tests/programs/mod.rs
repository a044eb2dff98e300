//! What the tests share that run programs: the gateway, browsers, foreign servers and clients.

// Each test binary is a crate of its own and uses only a part of this.
#![allow(dead_code)]

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod cutter;
pub(crate) mod event_clients;
pub(crate) mod folder;
pub(crate) mod gateway;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod python;
pub(crate) mod recorded;
pub(crate) mod redis;
pub(crate) mod upstreams;
