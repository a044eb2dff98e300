//! Small requests over hyper-util's client, as a Rust program would make them.

use std::{error::Error, sync::LazyLock};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A client without a pool: each `#[tokio::test]` has its own runtime, and a pooled connection
/// would die with the runtime that it was made on.
fn client() -> Client<HttpConnector, Full<Bytes>> {
    static CLIENT: LazyLock<Client<HttpConnector, Full<Bytes>>> = LazyLock::new(|| {
        Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build_http()
    });
    CLIENT.clone()
}

pub(crate) async fn send(request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
    Ok(client().request(request).await?)
}

pub(crate) async fn get(
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Response<Incoming>, BoxError> {
    let builder = headers
        .iter()
        .fold(Request::get(url), |builder, (name, value)| {
            builder.header(*name, *value)
        });
    send(builder.body(Full::default())?).await
}

pub(crate) async fn post(
    url: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> Result<Response<Incoming>, BoxError> {
    let request = Request::post(url).header("content-type", kind);
    send(request.body(Full::new(body.into()))?).await
}

pub(crate) async fn post_form(url: &str, form: &str) -> StatusCode {
    let kind = "application/x-www-form-urlencoded";
    post(url, kind, form.to_owned())
        .await
        .expect("a response")
        .status()
}

/// The whole body as text.
pub(crate) async fn text(url: &str) -> Result<String, BoxError> {
    body(get(url, &[]).await?).await
}

pub(crate) async fn body(response: Response<Incoming>) -> Result<String, BoxError> {
    Ok(String::from_utf8(
        response.into_body().collect().await?.to_bytes().to_vec(),
    )?)
}
