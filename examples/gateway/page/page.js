// The demo's other streams: the topic, the training run, and a WebSocket for comparison.

import { Stats, Wire, element, openEventSource, openFetch } from "./streams.js";
import "./answers.js";

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

# an answer with ids; the second line, with an id of the first, goes on where that one stopped
curl -N -H 'Accept: text/event-stream' ${location.origin}/v1/completions
curl -N -H 'Last-Event-ID: ts_….5' ${location.origin}/v1/completions

# a training run, and what a client gets that has seen its end
curl -N ${location.origin}/training
curl -i -H 'Last-Event-ID: 41' ${location.origin}/training

# over HTTP/2
curl -N --http2-prior-knowledge ${location.origin}/sse`;
