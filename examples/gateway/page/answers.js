// The token stream: answers that outlive their connection. Cut, or reloaded, each goes on where it was.

import { Stats, Wire, element, openEventSource, read, sleep } from "./streams.js";

/** How long after a lost connection reader A comes back, and how often in vain. */
const PAUSE = 1000;
const TRIES = 10;

/** One answer: all that is shown of it is in the tab's storage too, so that a reload loses nothing. */
class Answer {
  static START = {
    state: "idle", events: 0, heartbeats: 0, reconnects: 0, calls: 0, text: "", lastId: "", done: false,
  };

  constructor(reader, endpoint, figures) {
    this.reader = reader;
    this.endpoint = endpoint;
    this.box = element(`${reader}-text`);
    this.stats = new Stats(reader, {
      state: ["state", ""],
      events: ["events", ""],
      ...figures,
      reconnects: ["reconnects", ""],
      calls: ["upstream calls", ""],
    });
    this.change(JSON.parse(sessionStorage.getItem(reader)) ?? Answer.START);
    this.box.textContent = this.now.text;
  }

  change(changes) {
    this.now = { ...this.now, ...changes };
    sessionStorage.setItem(this.reader, JSON.stringify(this.now));
    for (const name of Object.keys(this.stats.values)) this.stats.set(name, this.now[name]);
  }

  add(name) {
    this.change({ [name]: this.now[name] + 1 });
  }

  get live() {
    return ["connecting", "open", "reconnecting"].includes(this.now.state);
  }

  begin(question, calls) {
    this.change({ ...Answer.START, question, calledBefore: calls, state: "connecting" });
    this.box.textContent = "";
  }

  /** For an answer in place of a lost one, of which nothing may stay. */
  anew(lastId) {
    this.change({ text: "", events: 0, lastId });
    this.box.textContent = "";
  }

  say(text) {
    this.change({ text: this.now.text + text });
    this.box.append(document.createTextNode(text));
  }

  /** A platform that was restarted counts from zero. */
  async count() {
    const { since, [this.endpoint]: count } = await upstreamCalls();
    const { calledBefore } = this.now;
    this.change({ calls: count - (since === calledBefore.since ? calledBefore[this.endpoint] : 0) });
  }
}

async function upstreamCalls() {
  return (await fetch("/v1/calls", { cache: "no-store" })).json();
}

const chat = new Answer("chat", "chat", { heartbeats: ["heartbeats", ""] });
const source = new Answer("source", "completions", {});
const chatForm = document.getElementById("chat");
const chatWire = new Wire("chat-wire");
let asking = new AbortController();
let connection = new AbortController();
let closeSource = () => {};

chatForm.onsubmit = async (submit) => {
  submit.preventDefault();
  stopAnswers();
  const { signal } = asking = new AbortController();
  const calls = await upstreamCalls();
  if (signal.aborted) return;
  const question = Object.fromEntries(new FormData(chatForm));
  for (const answer of [chat, source]) answer.begin(question, calls);
  readAnswers(signal);
};
element("chat-stop").onclick = stopAnswers;
element("chat-reload").onclick = () => location.reload();
element("chat-cut").onclick = () => connection.abort();
element("source-disconnect").onclick = () => closeSource();
element("source-reconnect").onclick = () => source.now.lastId && readBySource();

function stopAnswers() {
  asking.abort();
  if (chat.live) chat.change({ state: "closed" });
  closeSource();
}

function readAnswers(signal) {
  if (chat.live) readByFetch(signal);
  if (source.live) readBySource();
}

// === Reader A: whatever ends the connection, the same POST goes on behind the last event ===

async function readByFetch(signal) {
  for (let tries = 0; tries < TRIES; tries++) {
    const { events } = chat.now;
    connection = new AbortController();
    try {
      await post(AbortSignal.any([signal, connection.signal]));
    } catch {
      // lost, refused or cut: all the same to who comes back
    }
    if (signal.aborted || !chat.live) return;
    if (chat.now.lastId === "") break;
    if (chat.now.events > events) tries = 0;
    chat.change({ state: "reconnecting" });
    await sleep(PAUSE, signal);
    if (signal.aborted) return;
  }
  chat.change({ state: "broken" });
}

async function post(signal) {
  const { question: { question, delay, pause }, lastId } = chat.now;
  const messages = [{ role: "user", content: question }];
  const body = { model: "demo", stream: true, delay_ms: Number(delay), pause_ms: Number(pause), messages };
  const headers = { "Content-Type": "application/json", ...(lastId && { "Last-Event-ID": lastId }) };
  if (lastId) chat.add("reconnects");
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  chat.count();
  if (!goesOn(response)) return;
  chat.change({ state: "open" });
  await read(response, {
    line: (line) => chatWire.line(line),
    comment: () => chat.add("heartbeats"),
    event: (event) => chunk(event, response.headers.get("sse-stream")),
  });
}

/** Whether there is something to read, and if it is a new answer, room for it. */
function goesOn(response) {
  const [stream, resume] = ["sse-stream", "sse-resume"].map((name) => response.headers.get(name));
  element("chat-stream").textContent = stream ?? "absent";
  element("chat-resume").textContent = resume ?? "absent";
  if (resume === "complete") chat.change({ state: "finished" });
  if (resume === "lost" && (response.status === 204 || response.status === 410)) chat.change({ state: "lost" });
  if (!chat.live) return false;
  if (!response.ok) throw new Error(response.statusText);
  if (resume !== "resumed") chat.anew(stream ? `${stream}.0` : "");
  return true;
}

function chunk({ data }, stream) {
  chat.add("events");
  if (stream) chat.change({ lastId: `${stream}.${chat.now.events}` });
  // an end without [DONE] is no end: the answer was cut
  if (data === "[DONE]") return chat.change({ state: "finished" });
  chat.say(JSON.parse(data).choices[0]?.delta.content ?? "");
}

// === Reader B: the browser comes back by itself; only a page that was reloaded has to say the id ===

function readBySource() {
  closeSource();
  const { question: { question, delay, pause }, lastId } = source.now;
  if (lastId) source.add("reconnects");
  const query = new URLSearchParams({ prompt: question, delay_ms: delay, pause_ms: pause });
  const close = openEventSource(`/v1/completions?${query}`, lastId, ["start", "message", "done"], {
    state: sourceState,
    id: sourceId,
    event: sourceEvent,
  });
  closeSource = () => source.live && close();
}

function sourceState(state) {
  const { done } = source.now;
  if (state === "reconnecting" && !done) source.add("reconnects");
  if (state === "open") source.count();
  source.change({ state: state === "refused" && done ? "finished" : state });
}

function sourceId(lastId) {
  element("source-last-id").textContent = lastId || "none";
  source.change({ lastId });
}

function sourceEvent({ type, data, id }) {
  if (type === "start") source.anew(id);
  source.add("events");
  if (type === "message") source.say(data);
  if (type === "done") source.change({ done: true });
  // without ids the browser would ask the same question again
  if (type === "done" && id === "") closeSource();
}

// === After a reload ===

sourceId(source.now.lastId);
for (const [name, value] of Object.entries(chat.now.question ?? {})) chatForm.elements[name].value = value;
// the browser refuses an EventSource any more as soon as its page goes
if (source.now.state === "refused") source.change({ state: "reconnecting" });
readAnswers(asking.signal);
