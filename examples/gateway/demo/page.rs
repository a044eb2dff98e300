//! `GET /`: the page and its parts, as they are in `../page`.

use axum::{
    Router,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    routing::get,
};

/// A path, a type and a text.
type File = (&'static str, &'static str, &'static str);

/// Nothing from elsewhere, nothing inline, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! scripts {
    ($($name:literal),* $(,)?) => {
        [$((
            concat!("/page/", $name, ".js"),
            "text/javascript",
            include_str!(concat!("../page/", $name, ".js")),
        )),*]
    };
}

const FILES: [File; 2] = [
    ("/", "text/html", include_str!("../page/page.html")),
    (
        "/page/page.css",
        "text/css",
        include_str!("../page/page.css"),
    ),
];

const SCRIPTS: [File; 12] = scripts![
    "answers",
    "chart",
    "figures",
    "gateway",
    "inspector",
    "journal",
    "page",
    "parser",
    "predictions",
    "streams",
    "topic",
    "training",
];

pub(super) fn routes() -> Router {
    let files = FILES.into_iter().chain(SCRIPTS);
    files.fold(Router::new(), |router, (path, kind, text)| {
        let headers = [
            (CONTENT_TYPE, format!("{kind}; charset=utf-8")),
            // a newer gateway may have newer files
            (CACHE_CONTROL, "no-cache".to_owned()),
            (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
            (REFERRER_POLICY, "no-referrer".to_owned()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        ];
        router.route(path, get(move || async move { (headers, text) }))
    })
}
