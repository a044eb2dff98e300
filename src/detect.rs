//! Which responses are event streams.

use http::{StatusCode, header, response};

use crate::{client::Client, media};

/// An event stream, as far as this crate may handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventStream {
    /// Its bytes can be read, and lines may go in.
    Plain,
    /// It is encoded (or a range of something): adding a byte would corrupt it, so only its
    /// headers are ours.
    Opaque,
}

impl EventStream {
    /// What the response is to us; `None` for everything that must pass untouched.
    ///
    /// Only the media type decides, and a status is only looked at for whether it has a body at
    /// all: an error told as an event stream is one too.
    pub(crate) fn of(response: &response::Parts, client: Client) -> Option<Self> {
        if client.wants_head
            || has_no_body(response.status)
            || !media::is_event_stream(&response.headers)
        {
            return None;
        }
        Some(if is_encoded(response) {
            Self::Opaque
        } else {
            Self::Plain
        })
    }
}

fn has_no_body(status: StatusCode) -> bool {
    use StatusCode as S;
    status.is_informational()
        || matches!(status, S::NO_CONTENT | S::RESET_CONTENT | S::NOT_MODIFIED)
}

/// Whether the body's bytes are not what its type says.
pub(crate) fn is_encoded(response: &response::Parts) -> bool {
    let codings = response.headers.get_all(header::CONTENT_ENCODING);
    response.headers.contains_key(header::CONTENT_RANGE)
        || codings.iter().any(|coding| {
            !coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"identity")
        })
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn detect(method: &str, status: u16, headers: &[(&str, &str)]) -> Option<EventStream> {
        let request = Request::builder()
            .method(method)
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let builder = Response::builder().status(status);
        let response = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        EventStream::of(
            &response.body(()).unwrap().into_parts().0,
            Client::of(&request),
        )
    }

    #[test]
    fn the_essence_decides_whatever_its_case_and_parameters() {
        let of = |value| detect("GET", 200, &[("content-type", value)]);
        for value in [
            "text/event-stream",
            "Text/Event-Stream",
            " text/event-stream ;charset=utf-8",
            "text/event-stream;",
        ] {
            assert_eq!(of(value), Some(EventStream::Plain), "{value}");
        }
        for value in [
            "text/event-streaming",
            "text/plain",
            "",
            "text/event-stream, text/plain",
            "application/grpc",
        ] {
            assert_eq!(of(value), None, "{value}");
        }
    }

    #[test]
    fn what_has_no_body_is_none() {
        let stream = [("content-type", "text/event-stream")];
        assert_eq!(detect("HEAD", 200, &stream), None);
        for status in [101, 103, 204, 205, 304] {
            assert_eq!(detect("GET", status, &stream), None, "{status}");
        }
        for status in [200, 201, 404, 503] {
            assert_eq!(
                detect("POST", status, &stream),
                Some(EventStream::Plain),
                "{status}"
            );
        }
    }

    #[test]
    fn an_encoded_body_is_opaque() {
        let of = |name, value| {
            detect(
                "GET",
                200,
                &[("content-type", "text/event-stream"), (name, value)],
            )
        };
        assert_eq!(of("content-encoding", "gzip"), Some(EventStream::Opaque));
        assert_eq!(
            of("content-encoding", "identity, br"),
            Some(EventStream::Opaque)
        );
        assert_eq!(of("content-encoding", "Identity"), Some(EventStream::Plain));
        assert_eq!(
            of("content-range", "bytes 0-9/10"),
            Some(EventStream::Opaque)
        );
    }
}
