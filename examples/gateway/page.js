// Reads the demo's streams in both ways that a browser has: EventSource, and fetch with the raw bytes.
// What a server sent is only ever shown with textContent.

const element = (testid) => document.querySelector(`[data-testid="${testid}"]`);
const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
});

// === Figures ===

/** The row of counters of one stream; each can be read by a test as `<stream>-<figure>`. */
class Stats {
  constructor(stream, figures) {
    this.values = {};
    const list = document.querySelector(`[data-stats="${stream}"]`);
    for (const [name, [label, value]] of Object.entries(figures)) {
      list.append(this.#figure(`${stream}-${name}`, name, label, value));
    }
  }

  #figure(testid, name, label, value) {
    const [box, term, field] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = label;
    field.dataset.testid = testid;
    this.values[name] = field;
    this.set(name, value);
    box.append(term, field);
    return box;
  }

  set(name, value) {
    const field = this.values[name];
    field.textContent = value;
    field.title = value;
    if (name === "state") field.dataset.state = value;
  }

  add(name) {
    this.set(name, (Number(this.values[name].textContent) || 0) + 1);
  }

  get(name) {
    return this.values[name].textContent;
  }
}

/** The last lines of a stream as they came, comments marked. */
class Wire {
  static LINES = 200;

  constructor(testid) {
    this.box = element(testid);
  }

  line(text) {
    const line = document.createElement("span");
    line.textContent = `${text}\n`;
    if (text.startsWith(":")) line.className = "comment";
    this.box.append(line);
    if (this.box.childElementCount > Wire.LINES) this.box.firstElementChild.remove();
    this.box.scrollTop = this.box.scrollHeight;
  }
}

// === Event streams from raw bytes ===

/** The grammar of the HTML standard, 9.2.6. Unlike EventSource it tells of comments too. */
class Parser {
  #decoder = new TextDecoder();
  #rest = "";
  #id = "";
  #type = "";
  #data = [];

  constructor(on) {
    this.on = on;
  }

  push(bytes) {
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    // a CR at the end may be the first half of CRLF: it waits for what follows
    const whole = text.endsWith("\r") ? text.slice(0, -1) : text;
    const lines = whole.split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + text.slice(whole.length);
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    this.on.line?.(line);
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return this.on.comment?.(line);
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    if (name === "event") this.#type = value;
    if (name === "id" && !value.includes("\0")) this.#id = value;
    if (name === "retry" && /^\d+$/.test(value)) this.on.retry?.(Number(value));
  }

  #dispatch() {
    this.on.id?.(this.#id);
    if (this.#data.length > 0) {
      this.on.event({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
    }
    this.#type = "";
    this.#data = [];
  }
}

async function read(response, on) {
  const parser = new Parser(on);
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parser.push(value);
  }
}

// === Two ways to keep a stream open; each returns what closes it ===

/** The browser's own: it reconnects by itself, and says the last id in a header when it does. */
function openEventSource(url, lastId, types, on) {
  const target = new URL(url, location.href);
  if (lastId) target.searchParams.set("last_event_id", lastId);
  const source = new EventSource(target);
  on.state("connecting");
  source.onopen = () => on.state("open");
  source.onerror = () => {
    // CLOSED is for good: the answer was 204, or no event stream at all; it does not say which
    on.state(source.readyState === EventSource.CLOSED ? "refused" : "reconnecting");
  };
  for (const type of types) {
    source.addEventListener(type, (event) => {
      on.id(event.lastEventId);
      on.event({ type, data: event.data, id: event.lastEventId });
    });
  }
  return () => {
    source.close();
    on.state("closed");
  };
}

/** The same by hand: fetch, read, and come back with the last id. */
function openFetch(url, lastId, on) {
  const abort = new AbortController();
  keepOpen(url, lastId, on, abort.signal);
  return () => {
    abort.abort();
    on.state?.("closed");
  };
}

async function keepOpen(url, lastId, on, signal) {
  let id = lastId;
  let retry = 3000;
  const own = { ...on, id: (next) => on.id?.(id = next), retry: (ms) => (retry = ms) };
  on.state?.("connecting");
  while (!signal.aborted) {
    const headers = { Accept: "text/event-stream", ...(id && { "Last-Event-ID": encodeURI(id) }) };
    try {
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (response.status === 204) return on.state?.("finished");
      if (!response.ok) throw new Error(response.statusText);
      on.open?.(response);
      on.state?.("open");
      await read(response, own);
    } catch {
      // lost, refused or aborted: the loop knows which
    }
    if (!signal.aborted) {
      on.state?.("reconnecting");
      await sleep(retry, signal);
    }
  }
}

// === Topic ===

/** A feed has no end, so the page keeps the newest entries only. */
const ENTRIES = 200;

function subscriber(name, open, heartbeats) {
  const stats = new Stats(name, {
    state: ["state", "closed"],
    events: ["events", 0],
    heartbeats: ["heartbeats", heartbeats],
    "last-id": ["last id", "none"],
  });
  const log = element(`${name}-log`);
  const on = {
    state: (state) => stats.set("state", state),
    id: (id) => stats.set("last-id", id || "none"),
    comment: () => stats.add("heartbeats"),
    event: (event) => {
      stats.add("events");
      log.append(entry(event));
      if (log.childElementCount > ENTRIES) log.firstElementChild.remove();
      log.scrollTop = log.scrollHeight;
    },
  };
  let close = () => {};
  const connect = () => {
    close();
    const id = stats.get("last-id");
    close = open(id === "none" ? "" : id, on);
  };
  element(`${name}-disconnect`).onclick = () => close();
  element(`${name}-reconnect`).onclick = connect;
  connect();
}

function entry(event) {
  const [item, id, data] = ["li", "b", "span"].map((tag) => document.createElement(tag));
  id.textContent = event.id;
  data.textContent = event.data;
  item.append(id, data);
  return item;
}

function showHeaders(response) {
  for (const name of ["content-type", "cache-control", "x-accel-buffering"]) {
    element(`header-${name}`).textContent = response.headers.get(name) ?? "absent";
  }
}

const topicWire = new Wire("topic-b-wire");
subscriber("topic-a", (id, on) => openEventSource("/sse", id, ["message"], on), "hidden");
subscriber("topic-b", (id, on) => openFetch("/sse", id, {
  ...on,
  open: showHeaders,
  line: (line) => topicWire.line(line),
}), 0);

document.getElementById("publish").onsubmit = async (submit) => {
  submit.preventDefault();
  const form = submit.target;
  const result = element("publish-result");
  try {
    const response = await fetch("/sse", { method: "POST", body: new URLSearchParams(new FormData(form)) });
    result.textContent = (await response.text()).trim();
    if (response.ok) form.reset();
  } catch {
    result.textContent = "the gateway cannot be reached";
  }
};

// === Token stream ===

const chat = new Stats("chat", {
  state: ["state", "idle"],
  events: ["events", 0],
  heartbeats: ["heartbeats", 0],
  "first-token": ["first token", "–"],
  "last-id": ["last id", "none"],
});
const chatWire = new Wire("chat-wire");
let chatAbort = new AbortController();

document.getElementById("chat").onsubmit = async (submit) => {
  submit.preventDefault();
  const { question, delay } = Object.fromEntries(new FormData(submit.target));
  chatAbort.abort();
  chatAbort = new AbortController();
  const { signal } = chatAbort;
  beginAnswer();
  try {
    await ask(question, Number(delay), signal);
  } catch (error) {
    if (!signal.aborted) chat.set("state", "broken");
  }
};
element("chat-stop").onclick = () => {
  chatAbort.abort();
  if (chat.get("state") !== "finished") chat.set("state", "closed");
};

function beginAnswer() {
  element("chat-text").textContent = "";
  chat.set("events", 0);
  chat.set("heartbeats", 0);
  chat.set("first-token", "–");
  chat.set("last-id", "none");
  chat.set("state", "connecting");
}

async function ask(question, delay_ms, signal) {
  const asked = performance.now();
  const messages = [{ role: "user", content: question }];
  const body = JSON.stringify({ model: "demo", stream: true, delay_ms, messages });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal });
  if (!response.ok) throw new Error(response.statusText);
  chat.set("state", "open");
  await read(response, {
    line: (line) => chatWire.line(line),
    comment: () => chat.add("heartbeats"),
    id: (id) => chat.set("last-id", id || "none"),
    event: ({ data }) => {
      chat.add("events");
      if (data === "[DONE]") return chat.set("state", "finished");
      token(JSON.parse(data), asked);
    },
  });
  // an end without [DONE] is no end: the answer was cut
  if (chat.get("state") !== "finished") chat.set("state", "broken");
}

function token(chunk, asked) {
  const text = chunk.choices[0]?.delta.content;
  if (!text) return;
  if (chat.get("first-token") === "–") {
    chat.set("first-token", `${((performance.now() - asked) / 1000).toFixed(1)} s`);
  }
  element("chat-text").append(document.createTextNode(text));
}

// === Training run ===

const training = new Stats("training", {
  state: ["state", "idle"],
  events: ["events", 0],
  heartbeats: ["heartbeats", 0],
  "last-id": ["last id", "none"],
});
const trainingForm = document.getElementById("training");
let losses = [];
let done = false;
let closeTraining = () => {};

trainingForm.onsubmit = (submit) => {
  submit.preventDefault();
  losses = [];
  done = false;
  training.set("events", 0);
  training.set("heartbeats", 0);
  training.set("last-id", "none");
  train("");
};
element("training-disconnect").onclick = () => closeTraining();
element("training-reconnect").onclick = () => {
  const id = training.get("last-id");
  train(id === "none" ? "" : id);
};

function train(lastId) {
  closeTraining();
  const { pause, raw } = Object.fromEntries(new FormData(trainingForm));
  const url = `/training?pause_ms=${pause}`;
  const close = openEventSource(url, lastId, ["progress", "done"], {
    state: (state) => training.set("state", state === "refused" && done ? "finished" : state),
    id: (id) => training.set("last-id", id),
    event: (event) => {
      done = event.type === "done";
      epoch(event);
    },
  });
  if (!raw) training.set("heartbeats", "hidden");
  // the same stream once more, only for the bytes that EventSource hides
  const count = { comment: () => training.add("heartbeats"), event: () => {} };
  const closeRaw = raw ? openFetch(url, lastId, count) : () => {};
  closeTraining = () => {
    closeRaw();
    close();
  };
}

function epoch({ type, data }) {
  training.add("events");
  const { epoch, epochs, loss } = JSON.parse(data);
  if (type === "done") {
    element("training-epoch").textContent = `done, loss ${loss.toFixed(4)}`;
    return;
  }
  losses[epoch - 1] = loss;
  element("training-epoch").textContent = `epoch ${epoch} of ${epochs}, loss ${loss.toFixed(4)}`;
  Object.assign(element("training-progress"), { value: epoch, max: epochs });
  element("training-curve").setAttribute("points", points(epochs));
}

/** The curve in a box of 100 by 30; the first epoch's loss is the top. */
function points(epochs) {
  const top = Math.max(...losses);
  const point = (loss, n) => `${(100 * n) / (epochs - 1 || 1)},${29 - (27 * loss) / top}`;
  return losses.map(point).join(" ");
}

// === WebSocket ===

const ws = new Stats("ws", {
  state: ["state", "closed"],
  sent: ["sent", 0],
  echoed: ["echoed", 0],
});
let socket;

document.getElementById("ws").onsubmit = (submit) => {
  submit.preventDefault();
  const { text } = Object.fromEntries(new FormData(submit.target));
  if (socket?.readyState === WebSocket.OPEN) return sendText(text);
  connect(text);
};
element("ws-close").onclick = () => socket?.close();

function connect(text) {
  socket?.close();
  socket = new WebSocket(new URL("/ws", location.href.replace(/^http/, "ws")));
  ws.set("state", "connecting");
  socket.onopen = () => {
    ws.set("state", "open");
    sendText(text);
  };
  socket.onclose = () => ws.set("state", "closed");
  socket.onmessage = (message) => {
    ws.add("echoed");
    element("ws-echo").textContent = message.data;
  };
}

function sendText(text) {
  socket.send(text);
  ws.add("sent");
}

// === curl ===

element("curl").textContent = `# a topic: all events so far, then live; the second line goes on after event 2
curl -N ${location.origin}/sse
curl -N -H 'Last-Event-ID: 2' ${location.origin}/sse
curl -d data=hello ${location.origin}/sse

# an answer in the shape of OpenAI's API, after 20 s of thinking
curl -N -d '{"stream":true,"delay_ms":20000}' ${location.origin}/v1/chat/completions

# a training run, and what a client gets that has seen its end
curl -N ${location.origin}/training
curl -i -H 'Last-Event-ID: 41' ${location.origin}/training

# over HTTP/2
curl -N --http2-prior-knowledge ${location.origin}/sse`;
