// The token stream: answers that outlive their connection. Cut, or reloaded, each goes on where it was.

import { Kept, Stats, element, seconds, sleep } from "./figures.js";
import { cut, cuttable, openEventSource, read, report, room } from "./streams.js";

/** How long after a lost connection reader A comes back, and how often in vain. */
const PAUSE = 1000;
const TRIES = 10;

const TITLES = { chat: "Answer A", source: "Answer B" };

/** One answer: all that is shown of it is in the tab's storage too, so that a reload loses nothing. */
class Answer extends Kept {
  static START = {
    state: "idle", events: 0, heartbeats: 0, reconnects: 0, calls: 0, text: "", lastId: "", done: false,
    asked: 0, first: "–", rate: "–", firstAt: 0,
  };

  constructor(reader, endpoint, figures) {
    super(reader, Answer.START);
    this.endpoint = endpoint;
    this.box = element(`${reader}-text`);
    this.stats = new Stats(reader, {
      state: ["state", ""],
      events: ["events", ""],
      first: ["first token", ""],
      rate: ["tokens/s", ""],
      ...figures,
      reconnects: ["reconnects", ""],
      calls: ["calls", ""],
    });
    this.change({});
    this.box.textContent = this.now.text;
  }

  change(changes) {
    super.change(changes);
    for (const name of Object.keys(this.stats.values)) this.stats.set(name, this.now[name]);
    this.box.ariaBusy = String(this.live);
    this.box.classList.toggle("typing", this.live);
    const { state } = changes;
    const over = state === "reconnecting" && this.now.done;
    const detail = over ? "all of it is here; the browser asks once more and is told 204" : undefined;
    if (state && state !== "idle") report(this.name, TITLES[this.name], state, detail);
  }

  add(name) {
    this.change({ [name]: this.now[name] + 1 });
  }

  get live() {
    return ["connecting", "open", "reconnecting"].includes(this.now.state);
  }

  begin(question, calls) {
    this.change({ ...Answer.START, question, calledBefore: calls, state: "connecting", asked: Date.now() });
    this.box.textContent = "";
  }

  /** For an answer in place of a lost one, of which nothing may stay. */
  anew(lastId) {
    this.change({ text: "", events: 0, lastId, first: "–", rate: "–", tokens: 0 });
    this.box.textContent = "";
  }

  say(text) {
    if (text === "") return;
    const now = Date.now();
    const { first, firstAt, asked, tokens = 0 } = this.now;
    this.change(first === "–"
      ? { text, tokens: 1, first: seconds(now - asked), firstAt: now }
      : { text: this.now.text + text, tokens: tokens + 1, rate: (1000 * tokens / (now - firstAt || 1)).toFixed(1) });
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
let asking = new AbortController();
let closeSource = () => {};

chatForm.onsubmit = async (submit) => {
  submit.preventDefault();
  stopAnswers();
  if (!room("chat", "source")) return;
  const { signal } = asking = new AbortController();
  const calls = await upstreamCalls();
  if (signal.aborted) return;
  const question = Object.fromEntries(new FormData(chatForm));
  for (const answer of [chat, source]) answer.begin(question, calls);
  readAnswers(signal);
};
element("chat-stop").onclick = stopAnswers;
element("chat-reload").onclick = () => location.reload();
element("chat-cut").onclick = () => cut("chat");
element("source-cut").onclick = () => cut("source");
element("source-disconnect").onclick = () => closeSource();
element("source-reconnect").onclick = () => source.now.lastId && room("source") && readBySource();

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
    try {
      await post(signal);
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
  const url = cuttable("/v1/chat/completions", "chat");
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal });
  chat.count();
  if (!goesOn(response)) return;
  chat.change({ state: "open" });
  await read(response, {
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
  const url = cuttable(`/v1/completions?${query}`, "source");
  const close = openEventSource(url, lastId, ["start", "message", "done"], {
    state: sourceState,
    id: sourceId,
    event: sourceEvent,
  });
  closeSource = () => source.live && close();
}

function sourceState(state) {
  const { done, state: before } = source.now;
  if (state === "reconnecting" && before !== state && !done) source.add("reconnects");
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
