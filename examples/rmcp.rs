//! An MCP server whose streams stay open: heartbeats while a tool works, and a shutdown that ends.
//!
//! ```text
//! cargo run --example rmcp
//! say() { curl -sN http://127.0.0.1:3000/mcp "$@" -H 'Content-Type: application/json' \
//!     -H 'Accept: application/json, text/event-stream'; }
//! say -i -d '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",
//!     "capabilities":{},"clientInfo":{"name":"curl","version":"8"}}}'         # has an Mcp-Session-Id
//! say -H "Mcp-Session-Id: $ID" -d '{"jsonrpc":"2.0","method":"notifications/initialized"}'
//! say -H "Mcp-Session-Id: $ID" -d '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":
//!     {"name":"train","_meta":{"progressToken":"t"}}}'
//! ```
//!
//! The layer leaves `Last-Event-ID` to the service, which has its own ids and resumes by them. So no
//! `ResumeLayer` here, and no `EventIdLayer` that adds ids.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock,
        ProgressNotificationParam, ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::{net::TcpListener, signal::ctrl_c, time::sleep};
use tower_sse::{DrainLayer, SseLayer};

#[tokio::main]
async fn main() -> io::Result<()> {
    let (layer, drain) = DrainLayer::pair();
    let sse = SseLayer::new().heartbeat(Duration::from_secs(1));
    // One heartbeat is enough. Kept, its own would come every 15 seconds beside the layer's.
    let app = app(Duration::from_secs(3), None).layer(sse.drain(layer));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("serving MCP at http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _: io::Result<()> = ctrl_c().await;
            drain.start();
        })
        .await
}

/// The service, with or without heartbeats of its own.
pub fn app(pause: Duration, keep_alive: Option<Duration>) -> Router {
    let config = StreamableHttpServerConfig::default().with_sse_keep_alive(keep_alive);
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(Trainer { pause }), sessions, config);
    Router::new().nest_service("/mcp", service)
}

/// Its one tool, `train`, takes three pauses.
struct Trainer {
    pause: Duration,
}

impl ServerHandler for Trainer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        for epoch in 1..=3_u8 {
            sleep(self.pause).await;
            let Some(token) = context.meta.get_progress_token() else {
                continue;
            };
            let progress = ProgressNotificationParam::new(token, epoch.into()).with_total(3.0);
            // Nobody listens any more: the result is kept for whoever comes back.
            let _ = context.peer.notify_progress(progress).await;
        }
        Ok(CallToolResult::success(vec![ContentBlock::text("trained")]).into())
    }
}
