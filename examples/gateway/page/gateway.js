// The gateway itself: its metrics, this page's connections to it, and the button that stops it.

import { Chart } from "./chart.js";
import { Stats, element, make } from "./figures.js";
import { note, notice } from "./journal.js";
import { MOST, changes, cut, post, streams } from "./streams.js";

const EVERY = 1000;
const PATIENCE = 4000;

/** How much of the past the chart shows, in seconds. */
const PAST = 120;

/** Why streams end, as in the docs of `EndReason`. */
const REASONS = {
  complete: "the service ended it",
  disconnected: "the client went away, or its connection broke",
  drained: "the drain ended it between two events",
  aborted: "the drain broke it off, so that half an answer does not look whole",
  failed: "the service’s body failed",
  truncated: "the service ended it before the answer was complete",
  silent: "the service said nothing for too long",
  expired: "its time was over (--lifetime)",
  stalled: "the client did not read for too long",
};

const stats = new Stats("metrics", {
  open: ["open now", "–"],
  opened: ["opened", "–"],
  resumed: ["resumed", "–"],
  refused: ["refused", "–"],
  events: ["events", "–"],
  heartbeats: ["heartbeats", "–"],
  kib: ["KiB", "–"],
});
const chart = new Chart(element("metrics-chart"), { x: "seconds", y: "open streams", series: ["loss"], height: 170, counted: true });
const dialog = document.getElementById("drain-dialog");

/** When this gateway was started: it tells it from the next one. */
let started = "";
let state = "";
let goneAt = 0;
let history = [];

// === Polling: a stream would be one more of those that it counts ===

async function keepPolling() {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

async function poll() {
  try {
    const response = await fetch("/gateway/metrics", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw new Error(response.statusText);
    show(samples(await response.text()));
    await here(response.headers.get("gateway-started"));
  } catch {
    away();
  }
}

/** [name, labels, value] of each line in the text that Prometheus reads. */
function samples(text) {
  const lines = text.matchAll(/^([a-z_]+)(?:\{(.*)\})? (\S+)$/gm);
  return [...lines].map(([, name, labels = "", value]) => [name, labels, Number(value)]);
}

/** Returns how many streams have ended, by reason. */
function show(all) {
  const sum = (wanted, label = "") => all.reduce((sum, [name, labels, value]) =>
    sum + (name === wanted && labels.includes(label) ? value : 0), 0);
  const open = sum("sse_streams_open");
  for (const [figure, value] of Object.entries({
    open,
    opened: sum("sse_streams_opened_total"),
    resumed: sum("sse_streams_resumed_total", 'outcome="resumed"'),
    refused: sum("sse_streams_refused_total"),
    events: sum("sse_events_total"),
    heartbeats: sum("sse_heartbeats_total"),
    kib: (sum("sse_bytes_total") / 1024).toFixed(1),
  })) stats.set(figure, value);
  const now = Date.now() / 1000;
  history = [...history, [now, open]].filter(([at]) => at > now - PAST);
  chart.show({ loss: history.map(([at, open]) => [at - now, open]) }, [-PAST, 0]);
  const ended = Object.keys(REASONS).map((reason) => [reason, sum("sse_streams_ended_total", `reason="${reason}"`)]);
  const most = Math.max(1, ...ended.map(([, count]) => count));
  for (const [reason, count] of ended) {
    const field = element(`ended-${reason}`);
    field.textContent = count;
    field.closest("tr").classList.toggle("none", count === 0);
    field.nextElementSibling.firstElementChild.style.inlineSize = `${100 * count / most}%`;
  }
  return ended;
}

for (const [reason, meaning] of Object.entries(REASONS)) {
  const name = make("th", { scope: "row" }, make("code", { textContent: reason }), make("small", { textContent: meaning }));
  const count = make("td", { testid: `ended-${reason}`, className: "count", textContent: "–" });
  const bar = make("td", { className: "bar", ariaHidden: "true" }, make("span"));
  element("ended").append(make("tr", { className: "none" }, name, count, bar));
}

// === Here, leaving, gone, and here again ===

async function here(since) {
  if (since !== started) {
    const about = await (await fetch("/gateway/about", { cache: "no-store" })).json();
    const time = new Date(about.started * 1000).toLocaleTimeString();
    element("gateway-about").textContent = `Version ${about.version}, started at ${time}: heartbeats after ` +
      `${about.heartbeat_ms / 1000} s of silence, drain within ${about.drain_timeout_ms / 1000} s.`;
    element("drain-timeout").textContent = `${about.drain_timeout_ms / 1000} s`;
    if (started) {
      note(`A new gateway answers, started at ${time}${goneAt ? `: ${((Date.now() - goneAt) / 1000).toFixed(1)} s without one` : ""}.`);
      notice("A new gateway is here. What had waited for it comes back by itself.");
      history = [];
      become("up");
    }
    started = since;
  }
  goneAt = 0;
  if (state !== "draining") become("up");
}

function away() {
  const open = [...streams.values()].filter(({ state }) => state === "open").length;
  goneAt ||= Date.now();
  if (open > 0) return become("leaving");
  if (state === "gone") return;
  become("gone");
  note(`Nobody listens at ${location.host} any more.`);
  notice(`Nobody listens at ${location.host} any more. Each EventSource asks again by itself, and so does this page: ` +
    "start the gateway again on the same address, with the command that you have started it with, and watch them come back.");
}

function become(next) {
  state = next;
  element("gateway-state").textContent = next;
  element("gateway-state").dataset.state = next;
  element("drain").disabled = next !== "up";
}

// === Buttons ===

element("cut-all").onclick = () => {
  note("The network is cut: the gateway breaks all connections of this page’s streams, in the middle.");
  cut();
};
element("reload").onclick = () => location.reload();
element("drain").onclick = () => dialog.showModal();
element("drain-cancel").onclick = () => dialog.close();
element("drain-confirm").onclick = async () => {
  dialog.close();
  become("draining");
  note("Drain: as after SIGTERM. Nobody new gets in; what an EventSource reads ends between two events, other answers may finish.");
  try {
    const response = await post("/gateway/drain", {});
    const ends = show(samples(await response.text())).filter(([, count]) => count > 0);
    note(`The drain is over. Streams by how they ended: ${ends.map(([reason, count]) => `${reason} ${count}`).join(", ")}.`);
  } catch {
    notice("The gateway cannot be reached.");
  }
};

// === This page's connections ===

changes.addEventListener("change", showStreams);

function showStreams() {
  const all = [...streams.values()];
  const live = all.filter(({ live }) => live).length;
  element("connections").textContent = `${live} of ${MOST} streams`;
  element("page-streams").replaceChildren(...all.map(({ title, state }) => {
    const field = make("dd", { textContent: state });
    field.dataset.state = state;
    return make("div", {}, make("dt", { textContent: title }), field);
  }));
}

showStreams();
keepPolling();
