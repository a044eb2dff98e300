// The inspector: one stream, read with fetch, and all that EventSource hides: comments, chunks and each byte.

import { Stats, append, element, make } from "./figures.js";
import { cut, cuttable, openFetch, report, room } from "./streams.js";

const NAME = "inspector";
const ROWS = 300;
const HEADERS = ["content-type", "cache-control", "x-accel-buffering", "sse-stream", "sse-resume"];

/** What the gateway sends; another comment is the platform's. */
const HEARTBEAT = /^:( keep-alive)?$/;

const QUESTION = { model: "demo", stream: true, delay_ms: 3000, pause_ms: 100, messages: [{ role: "user", content: "What is an event stream?" }] };
const POST = {
  method: "POST",
  headers: { Accept: "application/json", "Content-Type": "application/json" },
  body: JSON.stringify(QUESTION),
};

const form = document.getElementById("inspector-form");
const [log, raw] = [element("inspector-log"), element("inspector-raw")];
const stats = new Stats(NAME, {
  state: ["state", "idle"],
  events: ["events", 0],
  heartbeats: ["heartbeats", 0],
  bytes: ["bytes", 0],
  "last-id": ["last id", "none"],
  retry: ["retry", "none"],
  reconnects: ["reconnects", 0],
});
let since = performance.now();
let shown = "";
let close = () => {};

form.onsubmit = (submit) => {
  submit.preventDefault();
  connect();
};
form.elements.stream.onchange = () => {
  close();
  form.elements.from.value = "";
};
element("inspector-disconnect").onclick = () => close();
element("inspector-cut").onclick = () => cut(NAME);
element("inspector-clear").onclick = clear;
element("inspector-hex").onchange = ({ target }) => raw.classList.toggle("hex", target.checked);

function connect() {
  close();
  const { stream, from } = Object.fromEntries(new FormData(form));
  if (!room(NAME)) return;
  const goesOn = stream === shown && from !== "" && from === stats.get("last-id");
  if (!goesOn) clear();
  shown = stream;
  let live = true;
  const [method, path] = stream.split(" ");
  const state = (state, detail) => {
    live = !["closed", "finished"].includes(state);
    if (!live) form.elements.from.value = stats.get("last-id") === "none" ? "" : stats.get("last-id");
    if (state === "reconnecting") stats.add("reconnects");
    stats.set("state", state);
    report(NAME, "Inspector", state, detail);
  };
  const end = openFetch(cuttable(path, NAME), from, {
    state,
    open: showHeaders,
    bytes: chunk,
    comment,
    event,
    id: (id) => stats.set("last-id", id || "none"),
    retry: (ms) => stats.set("retry", `${ms} ms`),
  }, method === "POST" ? POST : {});
  close = () => live && end();
}

function clear() {
  since = performance.now();
  startOfLine = true;
  for (const list of [log, raw]) list.replaceChildren();
  for (const [name, value] of Object.entries({ events: 0, heartbeats: 0, bytes: 0, "last-id": "none", retry: "none", reconnects: 0 })) {
    stats.set(name, value);
  }
}

function showHeaders(response) {
  element("header-status").textContent = response.status;
  for (const name of HEADERS) element(`header-${name}`).textContent = response.headers.get(name) ?? "absent";
  startOfLine = true;
  decoder = new TextDecoder("utf-8", { ignoreBOM: true });
}

// === Events ===

function event({ id, type, data }) {
  stats.add("events");
  append(log, row("", id || "–", type, data), ROWS);
}

function comment(line) {
  const ours = HEARTBEAT.test(line);
  if (ours) stats.add("heartbeats");
  append(log, row("comment", "", ours ? "heartbeat" : "comment", line), ROWS);
}

function row(className, id, type, data) {
  // of the gateway's ids the end tells them apart
  const end = id.length > 12 ? `…${id.slice(-8)}` : id;
  return make("li", { className }, time(), make("b", { textContent: end, title: id }), make("i", { textContent: type }),
    make("span", { textContent: data }));
}

const time = () => make("time", { textContent: `+${((performance.now() - since) / 1000).toFixed(2)}` });

// === Bytes ===

let startOfLine = true;
let decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** One read of the body: what came together. Each is kept in both forms, and the style sheet shows one. */
function chunk(bytes) {
  stats.add("bytes", bytes.length);
  const text = decoder.decode(bytes, { stream: true });
  const head = make("span", { className: "size" }, time(), ` ${bytes.length} B`);
  append(raw, make("li", {}, head, make("code", { className: "as-text" }, ...lines(text)),
    make("code", { className: "as-hex", textContent: hex(bytes) })), ROWS);
}

/** Lines with their ends made visible, and comments marked. Few fonts have the signs for CR and LF. */
function lines(text) {
  return (text.match(/[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$/g) ?? []).map((line) => {
    const [, content, end] = line.match(/^([^\r\n]*)([\r\n]*)$/);
    const comment = startOfLine && content.startsWith(":");
    startOfLine = end !== "";
    const ends = [...end].map((char) => sign(char === "\r" ? "CR" : "LF"));
    const shown = make("span", { className: comment ? "comment" : "", textContent: content });
    return make("span", {}, shown, ...ends, end ? "\n" : "");
  });
}

const sign = (name) => make("span", { className: "sign", textContent: name });

function hex(bytes) {
  const rows = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const part = [...bytes.subarray(at, at + 16)];
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    rows.push(`${digits}  ${text}`);
  }
  return rows.join("\n");
}
