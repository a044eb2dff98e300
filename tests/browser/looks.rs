//! How the page looks and who can use it: phone and desk, light and dark, keyboard and screen reader.
//! The pictures are in target/screenshots/.

use std::collections::BTreeSet;

use fantoccini::{
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
};
use serde_json::json;

use crate::{
    programs::{browser::Browser, process::answer_of},
    world::{becomes, choose, count, number, on_the_page, publish, texts},
};

const PHONE: (u32, u32) = (360, 740);
const DESK: (u32, u32) = (1280, 900);

const WIDER_THAN_THE_WINDOW: &str = r#"
    const wide = document.documentElement.scrollWidth > innerWidth;
    return !wide ? [] : [...document.querySelectorAll("body *")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth)
        .map((one) => one.outerHTML.slice(0, 80));
"#;

/// Texts whose colour is too near to that of what is behind them (WCAG 2.2, 1.4.3), as they are drawn now.
const FAINT: &str = r#"
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const luminance = (colour) => {
        const [r, g, b] = [...rgba(colour)].map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (rgba(colour)[3] === 255) return colour;
        }
        return "white";
    };
    const faint = [];
    let looked = 0;
    for (const one of document.querySelectorAll("body *")) {
        const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
        const field = one.matches("input:not([type=checkbox]), textarea");
        if (!(own || field) || !one.checkVisibility() || one.matches(":disabled, option")) continue;
        const style = getComputedStyle(one);
        const [a, b] = [one instanceof SVGElement ? style.fill : style.color, behind(one)].map(luminance);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        looked += 1;
        if (ratio < 4.5) faint.push([ratio.toFixed(2), one.outerHTML.slice(0, 100)]);
    }
    if (looked < 200) faint.push(`only ${looked} texts`);
    return faint;
"#;

/// What a keyboard must reach.
const CONTROLS: &str = r#"
    return [...document.querySelectorAll("a[href], button:enabled, input, select, textarea, [tabindex='0']")]
        .filter((one) => one.checkVisibility())
        .map((one) => one.dataset.testid ?? one.getAttribute("href"));
"#;

/// What has the focus, and what is wrong with how that looks.
const FOCUS: &str = r#"
    const one = document.activeElement;
    if (one === document.body) return ["", ""];
    const name = one.dataset.testid ?? one.getAttribute("href") ?? one.tagName;
    const { outlineStyle, outlineWidth } = getComputedStyle(one);
    if (outlineStyle === "none" || parseFloat(outlineWidth) < 2) return [name, "no outline"];
    const { left, top, width, height } = one.getBoundingClientRect();
    const [x, y] = [left + Math.min(width, innerWidth) / 2, top + Math.min(height / 2, 10)];
    const seen = document.elementFromPoint(x, y);
    const hidden = !(one === seen || one.contains(seen) || one.querySelector("*")?.contains(seen));
    return [name, hidden ? `under ${seen?.outerHTML.slice(0, 60)} at ${x}, ${y}` : ""];
"#;

/// Every change that a screen reader would read aloud.
const WATCH_WHAT_IS_SAID: &str = r#"
    window.said = [];
    const live = "[aria-live]:not([aria-live=off]), [role=status], [role=log], [role=alert], output";
    for (const region of document.querySelectorAll(live)) {
        new MutationObserver((changes) => {
            for (const change of changes) {
                const added = [...change.addedNodes].map((node) => node.textContent).join("");
                if (added) window.said.push(added);
            }
        }).observe(region, { childList: true, characterData: true, subtree: true });
    }
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn it_fits_and_can_be_read_on_a_phone_and_on_a_desk_in_light_and_dark() {
    on_the_page("looks", async |page, _| {
        fill(page).await;
        for (size, scheme) in [
            (PHONE, "light"),
            (PHONE, "dark"),
            (DESK, "light"),
            (DESK, "dark"),
        ] {
            look(page, size, scheme).await;
            let (width, height) = size;
            let name = format!("{width}x{height}-{scheme}");
            let wider = page.run(WIDER_THAN_THE_WINDOW, vec![]).await;
            assert_eq!(wider, json!([]), "{name}: it scrolls sideways");
            let faint = page.run(FAINT, vec![]).await;
            assert_eq!(faint, json!([]), "{name}: less contrast than AA");
            pictures(page, &name).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn every_control_has_a_name_and_no_two_the_same() {
    on_the_page("names", async |page, _| {
        page.devtools("Accessibility.enable", json!({})).await;
        let tree = page
            .devtools("Accessibility.getFullAXTree", json!({}))
            .await;
        let nodes = tree["nodes"].as_array().expect("nodes");
        let (mut names, mut controls) = (BTreeSet::new(), 0);
        for node in nodes {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let name = node["name"]["value"].as_str().unwrap_or_default();
            let control = ["button", "textbox", "combobox", "checkbox", "link"].contains(&role);
            let figure = ["image", "img", "progressbar", "log"].contains(&role);
            if control || figure {
                assert!(!name.is_empty(), "a {role} without a name: {node}");
            }
            if control {
                controls += 1;
                assert!(names.insert((role, name)), "two of {role} {name:?}");
            }
        }
        assert!(controls >= 40, "{controls} controls");
        let roles = |role: &str| {
            let all = nodes.iter().filter(|node| node["role"]["value"] == role);
            all.count()
        };
        for (role, count) in [
            ("main", 1),
            ("navigation", 1),
            ("banner", 1),
            ("contentinfo", 1),
        ] {
            assert_eq!(roles(role), count, "{role}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn every_control_is_reached_by_tab_and_shows_that_it_is() {
    on_the_page("keyboard", async |page, _| {
        for size in [DESK, PHONE] {
            look(page, size, "light").await;
            let all = page.run(CONTROLS, vec![]).await;
            let all: BTreeSet<String> = serde_json::from_value(all).expect("names");
            let mut reached = BTreeSet::new();
            page.run("document.activeElement.blur(); scrollTo(0, 0)", vec![])
                .await;
            for _ in 0..all.len() + 10 {
                press_tab(page).await;
                reached.insert(focus(page).await);
            }
            let missed: Vec<_> = all.difference(&reached).collect();
            assert!(missed.is_empty(), "never reached: {missed:?}");
            assert!(all.len() >= 40, "{}", all.len());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_screen_reader_is_told_of_streams_and_not_of_tokens() {
    on_the_page("live", async |page, _| {
        becomes(page, "gateway-state", "up").await;
        page.run(WATCH_WHAT_IS_SAID, vec![]).await;
        for button in ["chat-ask", "training-start", "predictions-run"] {
            page.click(button).await;
        }
        for (stream, events) in [("chat", 80), ("training", 30)] {
            count(page, &format!("{stream}-events"), events).await;
        }
        becomes(page, "chat-state", "finished").await;
        let said = page.run("return window.said", vec![]).await;
        let said: Vec<String> = serde_json::from_value(said).expect("texts");
        assert!((4..=16).contains(&said.len()), "{}: {said:?}", said.len());
        let all = said.join(" ");
        assert!(all.contains("Answer A: finished"), "{all}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn nothing_moves_for_who_wants_less_movement() {
    on_the_page("motion", async |page, _| {
        page.click("chat-ask").await;
        becomes(page, "chat-state", "open").await;
        for (wish, least, most) in [("no-preference", 1, 9), ("reduce", 0, 0)] {
            let features = json!([{ "name": "prefers-reduced-motion", "value": wish }]);
            let media = json!({ "features": features });
            page.devtools("Emulation.setEmulatedMedia", media).await;
            let moving = page
                .run("return document.getAnimations().length", vec![])
                .await;
            let moving = moving.as_u64().expect("a number");
            assert!((least..=most).contains(&moving), "{wish}: {moving}");
        }
    })
    .await;
}

/// A page that has been used.
async fn fill(page: &Browser) {
    for (field, value) in [("training-pause", "100"), ("predictions-pause", "50")] {
        choose(page, field, value).await;
    }
    for button in ["training-start", "predictions-run", "chat-ask"] {
        page.click(button).await;
    }
    publish(
        page,
        "A word of some length, so that lines have to break on a small screen.",
    )
    .await;
    for stream in ["training", "predictions", "chat", "source"] {
        becomes(page, &format!("{stream}-state"), "finished").await;
    }
    choose(page, "inspector-stream", "GET /odd").await;
    page.click("inspector-connect").await;
    becomes(page, "inspector-state", "finished").await;
    page.click("topic-a-cut").await;
    count(page, "ended-disconnected", 1).await;
    assert!(number(&page.text("training-events").await) == 41);
    assert_eq!(
        texts(page, "[data-testid=training-chart] circle")
            .await
            .len(),
        2
    );
}

async fn look(page: &Browser, (width, height): (u32, u32), scheme: &str) {
    let phone = width < 500;
    let window = json!({
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone,
    });
    page.devtools("Emulation.setDeviceMetricsOverride", window)
        .await;
    let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
    page.devtools(
        "Emulation.setEmulatedMedia",
        json!({ "features": features }),
    )
    .await;
    // the charts are drawn anew once their boxes have changed
    let frames = "const [done] = arguments; requestAnimationFrame(() => requestAnimationFrame(() => done()))";
    let drawn = page.page.execute_async(frames, vec![]).await;
    drawn.expect("two frames");
}

/// The window as it is at each part of the page.
async fn pictures(page: &Browser, name: &str) {
    let parts =
        "return ['', ...[...document.querySelectorAll('main > section')].map(({ id }) => id)]";
    let parts: Vec<String> = serde_json::from_value(page.run(parts, vec![]).await).expect("names");
    assert_eq!(parts.len(), 9, "{parts:?}");
    for part in parts {
        let to = "document.getElementById(arguments[0])?.scrollIntoView({ behavior: 'instant' }) \
                  ?? scrollTo({ top: 0, behavior: 'instant' })";
        page.run(to, vec![json!(part)]).await;
        let part = if part.is_empty() { "top" } else { &part };
        let path = page.screenshot(&format!("{name}-{part}")).await;
        let picture = std::fs::read(path).expect("a picture");
        assert_eq!(&picture[1..4], b"PNG");
    }
}

/// What has the focus, once it can be seen: what is far away is scrolled to first.
async fn focus(page: &Browser) -> String {
    let mut seen = json!(null);
    let name = answer_of(async || {
        seen = page.run(FOCUS, vec![]).await;
        let (name, fault): (String, String) = serde_json::from_value(seen.clone()).expect("both");
        fault.is_empty().then_some(name)
    });
    let name = name.await;
    name.unwrap_or_else(|| panic!("it cannot be seen: {seen}"))
}

async fn press_tab(page: &Browser) {
    let tab = char::from(Key::Tab);
    let keys = KeyActions::new("keys".to_owned())
        .then(KeyAction::Down { value: tab })
        .then(KeyAction::Up { value: tab });
    page.page.perform_actions(keys).await.expect("a key");
}
