// The topic: publish, and subscribe with the browser's own EventSource. Beside it a WebSocket, for comparison.

import { Stats, append, element, make } from "./figures.js";
import { cut, cuttable, openEventSource, report, room } from "./streams.js";

/** A feed has no end, so the page keeps the newest entries only. */
const ENTRIES = 200;
const NAME = "topic-a";

const stats = new Stats(NAME, {
  state: ["state", "closed"],
  events: ["events", 0],
  reconnects: ["reconnects", 0],
  "last-id": ["last id", "none"],
});
const log = element("topic-a-log");
let close = () => {};

const on = {
  state: (state) => {
    if (state === "reconnecting" && stats.get("state") !== state) stats.add("reconnects");
    stats.set("state", state);
    report(NAME, "Topic", state, state === "reconnecting" ? "the stream ended; EventSource waits and comes back by itself, with the last id" : undefined);
  },
  id: (id) => stats.set("last-id", id || "none"),
  event: ({ id, data }) => {
    stats.add("events");
    append(log, make("li", {}, make("b", { textContent: id }), make("span", { textContent: data })), ENTRIES);
  },
};

function connect() {
  close();
  if (!room(NAME)) return;
  const id = stats.get("last-id");
  close = openEventSource(cuttable("/sse", NAME), id === "none" ? "" : id, ["message"], on);
}

element("topic-a-disconnect").onclick = () => close();
element("topic-a-reconnect").onclick = connect;
element("topic-a-cut").onclick = () => cut(NAME);

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

connect();

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
  openSocket(text);
};
element("ws-close").onclick = () => socket?.close();

function openSocket(text) {
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
