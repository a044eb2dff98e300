//! A headless Chromium behind ChromeDriver, one per test.

use std::{fs, path::PathBuf, process::Command};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::{
    client,
    folder::{self, Folder},
    process::{Process, answer_of},
};

/// The background of Chromium wants the internet, which a test machine may not have.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--window-size=1280,1600",
];

pub(crate) struct Browser {
    pub(crate) page: Client,
    driver_url: String,
    _driver: Process,
    _profile: Folder,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let (driver, port) = driver().await;
        let profile = Folder::new("chromium");
        let arguments: Vec<_> = FLAGS
            .iter()
            .map(ToString::to_string)
            .chain([format!("--user-data-dir={}", profile.path())])
            .collect();
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let driver_url = format!("http://127.0.0.1:{port}");
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().expect("an object").clone())
            .connect(&driver_url)
            .await;
        let page = page.unwrap_or_else(|error| panic!("no browser: {error}"));
        Self {
            page,
            driver_url,
            _driver: driver,
            _profile: profile,
        }
    }

    /// Runs a script in the page.
    pub(crate) async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.page
            .execute(script, arguments)
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The text of the element with this `data-testid`.
    pub(crate) async fn text(&self, id: &str) -> String {
        self.find(id).await.text().await.expect("its text")
    }

    /// In the middle of the window, where no bar at its edge is above it.
    pub(crate) async fn click(&self, id: &str) {
        let element = self.find(id).await;
        let here = serde_json::to_value(&element).expect("a reference");
        let scroll = "arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })";
        self.run(scroll, vec![here]).await;
        let clicked = element.click().await;
        clicked.unwrap_or_else(|error| panic!("no click on {id}: {error}"));
    }

    /// Waits until the text of the element is as wanted, and returns it.
    pub(crate) async fn text_that(&self, id: &str, wanted: impl Fn(&str) -> bool) -> String {
        let element = self.find(id).await;
        let text = async || element.text().await.expect("its text");
        self.wait_for(id, text, wanted).await
    }

    /// The same for what is written in a field.
    pub(crate) async fn value_that(&self, id: &str, wanted: impl Fn(&str) -> bool) -> String {
        let element = self.find(id).await;
        let value = async || {
            element
                .prop("value")
                .await
                .expect("its value")
                .unwrap_or_default()
        };
        self.wait_for(id, value, wanted).await
    }

    async fn wait_for(
        &self,
        id: &str,
        text: impl AsyncFn() -> String,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let answer = answer_of(async || Some(text().await).filter(|text| wanted(text))).await;
        match answer {
            Some(text) => text,
            None => panic!("{id} stays {:?}", text().await),
        }
    }

    pub(crate) async fn find(&self, id: &str) -> fantoccini::elements::Element {
        let selector = format!("[data-testid={id:?}]");
        let found = self.page.wait().for_element(Locator::Css(&selector)).await;
        found.unwrap_or_else(|error| panic!("nothing has data-testid {id:?}: {error}"))
    }

    /// A command of the DevTools protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.driver("goog/cdp/execute", body).await
    }

    /// What the console has been told since this was asked for last: the source and the text of each
    /// message.
    pub(crate) async fn console(&self) -> Vec<(String, String)> {
        let log = self.driver("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().expect("a list").iter();
        let field = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        entries
            .map(|entry| (field(entry, "source"), field(entry, "message")))
            .collect()
    }

    /// What ChromeDriver knows beyond WebDriver.
    async fn driver(&self, command: &str, body: Value) -> Value {
        let session = self.page.session_id().await.expect("an answer");
        let session = session.expect("a session");
        let url = format!("{}/session/{session}/{command}", self.driver_url);
        let answer = client::post(&url, "application/json", body.to_string()).await;
        let answer = client::body(answer.expect("an answer")).await;
        let answer: Value = serde_json::from_str(&answer.expect("its text")).expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
        answer["value"].clone()
    }

    /// Saves a picture of what is in the window, in target/screenshots/.
    pub(crate) async fn screenshot(&self, name: &str) -> PathBuf {
        let folder = folder::target().join("screenshots");
        fs::create_dir_all(&folder).expect("a folder in target");
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, self.page.screenshot().await.expect("a picture"))
            .expect("a file in target");
        path
    }

    pub(crate) async fn close(self) {
        self.page
            .clone()
            .close()
            .await
            .expect("an end of the session");
    }
}

/// ChromeDriver and its port. It takes a free one of IPv4 and wants the same of IPv6, which may be
/// taken; then it ends.
async fn driver() -> (Process, String) {
    for _ in 0..10 {
        // a group of its own, so that Chromium goes with it
        let mut command = Command::new("chromedriver");
        let mut driver = Process::start_group(command.arg("--port=0"));
        let line = driver.line_or_end("ChromeDriver was started successfully on port ");
        if let Some(port) = line.await {
            return (driver, port.trim_end_matches('.').to_owned());
        }
        let said = driver.stderr();
        assert!(
            said.contains("Address already in use"),
            "ChromeDriver: {said}"
        );
    }
    panic!("ChromeDriver found no free port");
}
