//! The guide in `src/guide`: what rustdoc does not check of it.

use std::{collections::BTreeMap, fs, path::Path};

/// Lines of a chapter, beyond which nobody reads it to its end.
const LONG: usize = 160;

/// Where a link may lead besides the guide.
const README: &str = include_str!("../README.md");

#[test]
fn every_chapter_is_in_the_documentation_and_in_the_list() {
    let [modules, list] = ["mod.rs", "guide.md"].map(read);
    for name in chapters().into_keys() {
        let module = format!("#[doc = include_str!(\"{name}.md\")]\npub mod {name} {{}}");
        assert!(modules.contains(&module), "{name} is no module");
        let listed = list.contains(&format!("\n| [`{name}`] |"));
        // It is not always there, so it cannot always be linked to.
        assert!(
            listed || list.contains(&format!("\n| `{name}` (")),
            "{name}"
        );
    }
}

#[test]
fn chapters_are_short() {
    for (name, text) in chapters() {
        let lines = text.lines().count();
        assert!(lines <= LONG, "{name}: {lines}");
    }
}

/// rustdoc knows whether a page is there, but not whether it has that heading.
#[test]
fn links_lead_to_headings_that_are_there() {
    let chapters = chapters();
    let mut checked = 0;
    for (name, text) in &chapters {
        for link in text.split("](crate").skip(1) {
            let link = link.split(')').next().unwrap();
            let Some((page, heading)) = link.split_once('#') else {
                continue;
            };
            let page = match page.strip_prefix("::guide::") {
                Some(chapter) => &*chapters[chapter],
                None if page.is_empty() => README,
                // The documentation of an item.
                None => continue,
            };
            let there = headings(page).any(|there| there == heading);
            assert!(there, "{name}: {link}");
            checked += 1;
        }
    }
    assert!(checked > 5, "{checked}");
}

/// As rustdoc makes ids of them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let lines = page.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || *c == ' ');
        kept.collect::<String>().replace(' ', "-")
    })
}

fn chapters() -> BTreeMap<String, String> {
    let files = fs::read_dir(folder()).expect("src/guide");
    let names = files.map(|file| file.expect("a file").file_name().into_string().unwrap());
    let names = names.filter_map(|name| Some(name.strip_suffix(".md")?.to_owned()));
    let chapters = names.filter(|name| name != "guide");
    let chapters: BTreeMap<_, _> = chapters
        .map(|name| (name.clone(), read(&format!("{name}.md"))))
        .collect();
    assert!(chapters.len() > 5, "{chapters:?}");
    chapters
}

fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).expect("a file of the guide")
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide"))
}
