//! Services that others wrote, wrapped without change: those of the examples, over real sockets. A
//! client sees the bytes of the bare service, heartbeats, and an end when the server shuts down.

#[path = "services/answers.rs"]
mod answers;
#[path = "services/grpc.rs"]
mod grpc;
#[path = "services/keep_alives.rs"]
mod keep_alives;
#[path = "services/mcp.rs"]
mod mcp;
#[path = "services/order.rs"]
mod order;
#[path = "services/streams.rs"]
mod streams;
mod support;
#[path = "services/tower_http.rs"]
mod tower_http;
#[path = "services/upstream.rs"]
mod upstream;

/// The programs themselves: what is copied from them is what is tested.
#[allow(dead_code, unreachable_pub)]
#[path = "../examples"]
mod examples {
    pub(crate) mod axum;
    pub(crate) mod hyper;
    pub(crate) mod reqwest;
    pub(crate) mod rmcp;
    pub(crate) mod tonic;
    pub(crate) mod warp;
}
