use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, DATE, SET_COOKIE},
    request, response,
};
use sha2::{Digest, Sha256};

use super::StreamId;
use crate::{headers, media};

/// What is known of a stream besides its events: whose it is, and the head of its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) principal: Principal,
    status: StatusCode,
    headers: HeaderMap,
}

/// The hash of whoever may read a stream, salted with the stream's id: a store that leaks does not
/// tell which streams belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Principal([u8; 32]);

/// The first byte, so that another version of this crate on the same store knows its own.
const VERSION: u8 = 1;

/// A head that is larger loses the headers that do not fit.
const MAX_HEADERS: usize = 8 * 1024;

/// What belonged to that one response.
const NOT_REPEATED: [HeaderName; 2] = [DATE, SET_COOKIE];

impl About {
    pub(super) fn new(principal: Principal, response: &response::Parts) -> Self {
        let mut headers = response.headers.clone();
        headers::remove_hop_by_hop(&mut headers);
        headers::unbind(&mut headers);
        for name in NOT_REPEATED {
            headers.remove(name);
        }
        Self {
            principal,
            status: response.status,
            headers: fitting(&headers),
        }
    }

    /// The head of a response that goes on with the stream.
    pub(super) fn head(&self) -> response::Parts {
        let mut head = http::Response::new(()).into_parts().0;
        head.status = self.status;
        head.headers = self.headers.clone();
        head
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.principal.0);
        bytes.put_u16(self.status.as_u16());
        for (name, value) in &self.headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                bytes.put_u16(part.len() as u16);
                bytes.put_slice(part);
            }
        }
        bytes.freeze()
    }

    /// `None` for what [`encode`](Self::encode) has not written.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut principal = [0; 32];
        bytes.try_copy_to_slice(&mut principal).ok()?;
        let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
        let mut headers = HeaderMap::new();
        while bytes.has_remaining() {
            let name = HeaderName::from_bytes(&part(&mut bytes)?).ok()?;
            let value = HeaderValue::from_bytes(&part(&mut bytes)?).ok()?;
            headers.append(name, value);
        }
        Some(Self {
            principal: Principal(principal),
            status,
            headers,
        })
    }
}

impl Principal {
    pub(super) fn new(stream: StreamId, principal: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(stream.bits().to_be_bytes())
            .chain_update(principal);
        Self(hash.finalize().into())
    }

    /// Whoever has the same `Authorization`; without one, whoever knows the id.
    pub(super) fn authorization(request: &request::Parts) -> Vec<u8> {
        let values = request.headers.get_all(http::header::AUTHORIZATION);
        let values: Vec<_> = values.iter().map(HeaderValue::as_bytes).collect();
        values.join(&b'\n')
    }
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(bytes.try_get_u16().ok()?);
    (len <= bytes.remaining()).then(|| bytes.split_to(len))
}

/// The media type, and as many of the others as fit.
fn fitting(headers: &HeaderMap) -> HeaderMap {
    let mut room = MAX_HEADERS;
    let mut fitting = HeaderMap::new();
    let plain = HeaderValue::from_static(media::EVENT_STREAM);
    let media_type = headers.get(CONTENT_TYPE);
    let media_type = media_type.filter(|value| value.len() <= room);
    let media_type = media_type.unwrap_or(&plain).clone();
    room -= media_type.len();
    fitting.insert(CONTENT_TYPE, media_type);
    for (name, value) in headers.iter().filter(|(name, _)| *name != CONTENT_TYPE) {
        let len = name.as_str().len() + value.len();
        if len <= room {
            room -= len;
            fitting.append(name, value.clone());
        }
    }
    fitting
}
