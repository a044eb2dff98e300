//! Reads many streams with Rust clients, as programs do that use them: see `../readers/jobs.py`.

use std::{env, fs, time::Duration};

use async_openai::{Client, config::OpenAIConfig, types::responses::ResponseStreamEvent};
use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use eventsource_stream::Eventsource as _;
use futures_util::{StreamExt as _, TryStreamExt as _, future::join_all};
use launchdarkly_sdk_transport::HyperTransport;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sse_stream::SseByteStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a client made of its stream.
#[derive(Default, Serialize)]
struct Reading {
    events: Vec<Value>,
    text: String,
    tools: Vec<Value>,
    error: Option<String>,
}

/// Tool calls of which pieces come: name and arguments.
#[derive(Default)]
struct Calls(Vec<(String, String)>);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let path = env::args().nth(1).expect("a file with jobs");
    let jobs = fs::read_to_string(path).expect("a file with jobs");
    join_all(jobs.lines().map(read)).await;
}

async fn read(line: &str) {
    let job: Value = serde_json::from_str(line).expect("JSON");
    let text = |name: &str| job[name].as_str().expect("text").to_owned();
    let base = text("base");
    let mut reading = Reading::default();
    let read = match (&*text("client"), &*text("protocol")) {
        ("async-openai", "chat") => chat(&base, &mut reading).await,
        ("async-openai", "responses") => responses(&base, &mut reading).await,
        ("eventsource-client", _) => eventsource_client(&base, &mut reading).await,
        ("eventsource-stream", _) => eventsource_stream(&base, &mut reading).await,
        ("reqwest-eventsource", _) => reqwest_eventsource(&base, &mut reading).await,
        ("sse-stream", _) => sse_stream(&base, &mut reading).await,
        (client, protocol) => panic!("{client} does not read {protocol}"),
    };
    reading.error = read.err().map(|error| error.to_string());
    println!("{}", json!({ "id": job["id"], "reading": reading }));
}

// === OpenAI ===

fn openai(base: &str) -> Client<OpenAIConfig> {
    let config = OpenAIConfig::new().with_api_key("none");
    Client::with_config(config.with_api_base(format!("{base}/v1")))
}

fn request<T: DeserializeOwned>(request: Value) -> Result<T, BoxError> {
    Ok(serde_json::from_value(request)?)
}

async fn chat(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    let messages = json!([{ "role": "user", "content": "Hello?" }]);
    let request = request(json!({ "model": "any", "messages": messages }))?;
    let mut stream = openai(base).chat().create_stream(request).await?;
    let mut calls = Calls::default();
    while let Some(chunk) = stream.try_next().await? {
        reading.events.push(serde_json::to_value(&chunk)?);
        for choice in chunk.choices {
            reading.text += choice.delta.content.as_deref().unwrap_or_default();
            for piece in choice.delta.tool_calls.unwrap_or_default() {
                let function = piece.function.unwrap_or_default();
                let (name, arguments) = (function.name, function.arguments);
                calls.add(piece.index as usize, name, arguments);
            }
        }
    }
    reading.tools = calls.finish()?;
    Ok(())
}

async fn responses(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    let request = request(json!({ "model": "any", "input": "Hello?" }))?;
    let mut stream = openai(base).responses().create_stream(request).await?;
    let mut calls = Calls::default();
    while let Some(event) = stream.try_next().await? {
        reading.events.push(serde_json::to_value(&event)?);
        match event {
            ResponseStreamEvent::ResponseOutputTextDelta(event) => reading.text += &event.delta,
            ResponseStreamEvent::ResponseFunctionCallArgumentsDone(event) => {
                calls.add(calls.0.len(), event.name, Some(event.arguments));
            }
            _ => {}
        }
    }
    reading.tools = calls.finish()?;
    Ok(())
}

impl Calls {
    fn add(&mut self, index: usize, name: Option<String>, arguments: Option<String>) {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Default::default);
        }
        self.0[index].0 += &name.unwrap_or_default();
        self.0[index].1 += &arguments.unwrap_or_default();
    }

    fn finish(self) -> Result<Vec<Value>, BoxError> {
        let calls = self.0.into_iter();
        calls
            .map(|(name, arguments)| Ok(json!([name, request::<Value>(arguments.parse()?)?])))
            .collect()
    }
}

// === Feeds ===

impl Reading {
    fn event(&mut self, kind: &str, data: Option<&str>, id: Option<&str>) {
        let event = json!({ "kind": kind, "data": data, "id": id });
        self.events.push(event);
        self.text += data.unwrap_or_default();
        self.text += "|";
    }
}

async fn eventsource_client(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    let reconnect = ReconnectOptions::reconnect(true)
        .retry_initial(false)
        .delay(Duration::from_millis(10))
        .build();
    let client = ClientBuilder::for_url(&format!("{base}/feed"))
        .map_err(said)?
        .reconnect(reconnect)
        .build_with_transport(HyperTransport::new()?);
    let mut stream = client.stream();
    let mut ends = 0;
    while let Some(item) = stream.next().await {
        match item {
            Ok(SSE::Event(event)) => {
                reading.event(&event.event_type, Some(&event.data), event.id.as_deref());
            }
            Ok(SSE::Connected(_) | SSE::Comment(_)) => {}
            // It comes back after the first end, and learns that there is no more.
            Err(eventsource_client::Error::Eof) if ends == 0 => ends += 1,
            Err(error) => return Err(said(error)),
        }
    }
    Ok(())
}

/// Its errors cannot be sent to another thread.
fn said(error: eventsource_client::Error) -> BoxError {
    error.to_string().into()
}

async fn eventsource_stream(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    let response = reqwest::get(format!("{base}/feed")).await?;
    let mut stream = response.bytes_stream().eventsource();
    while let Some(event) = stream.try_next().await? {
        reading.event(&event.event, Some(&event.data), Some(&event.id));
    }
    Ok(())
}

async fn reqwest_eventsource(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    use reqwest_eventsource::{Error, Event, EventSource};
    let request = reqwest_012::Client::new().get(format!("{base}/feed"));
    let mut source = EventSource::new(request)?;
    while let Some(item) = source.next().await {
        match item {
            Ok(Event::Open) | Err(Error::StreamEnded) => {}
            Ok(Event::Message(event)) => {
                reading.event(&event.event, Some(&event.data), Some(&event.id));
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
    Ok(())
}

async fn sse_stream(base: &str, reading: &mut Reading) -> Result<(), BoxError> {
    let request = reqwest::Client::new().get(format!("{base}/feed"));
    let request = request.header("accept", "text/event-stream");
    let response = request.send().await?;
    let mut blocks = SseByteStream::new(response.bytes_stream());
    while let Some(block) = blocks.next().await {
        let block = block.map_err(|error| error.to_string())?;
        let kind = block.event.as_deref().unwrap_or_default();
        reading.event(kind, block.data.as_deref(), block.id.as_deref());
    }
    Ok(())
}
