// How a stream is kept open, in both ways that a browser has: EventSource, and fetch with the raw bytes. And which of
// them are open now, since a browser has few connections to give.

import { sleep } from "./figures.js";
import { Parser } from "./parser.js";
import { note, notice } from "./journal.js";

/** Over HTTP/1.1 a browser opens six to one host; one is for all that is no stream. */
export const MOST = 5;

const LIVE = ["connecting", "open", "reconnecting"];
const PAGE = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** By its name, each stream that this page has had. */
export const streams = new Map();
export const changes = new EventTarget();

/** How a stream is doing; `detail` says more for the journal. */
export function report(name, title, state, detail) {
  if (streams.get(name)?.state === state) return;
  const before = streams.get(name)?.state ?? "";
  streams.set(name, { title, state, live: LIVE.includes(state) });
  changes.dispatchEvent(new Event("change"));
  if (state !== "connecting" && !(before === "" && !LIVE.includes(state))) note(`${title}: ${detail ?? said(state, before)}`);
}

function said(state, before) {
  if (state === "open" && before === "reconnecting") return "is back";
  if (state === "reconnecting") return "the connection ended; it comes back by itself";
  return state;
}

/** Whether these streams may be opened besides what is open; if not, the page says why. */
export function room(...names) {
  const others = [...streams].filter(([name, { live }]) => live && !names.includes(name));
  if (others.length + names.length <= MOST) {
    notice("");
    return true;
  }
  const titles = others.map(([, { title }]) => title).join(", ");
  notice(`No connection is free: over HTTP/1.1 a browser opens six to one host, and one is kept for requests. ` +
    `Open are ${titles}. Disconnect one, or wait until one ends.`);
  return false;
}

// === The network, cut by the gateway in the middle of the streams ===

/** The address of a stream that can be cut by its name. */
export function cuttable(url, name) {
  const target = new URL(url, location.href);
  target.searchParams.set("cut", `${PAGE}.${name}.`);
  return target;
}

/** All of this page's streams, or one. */
export async function cut(name) {
  const streams = name ? `${PAGE}.${name}.` : `${PAGE}.`;
  try {
    await post("/gateway/cut", { streams });
  } catch {
    notice("The gateway cannot be reached.");
  }
}

export async function post(url, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(response.statusText);
  return response;
}

// === Two ways to keep a stream open; each returns what closes it ===

/** The browser's own: it reconnects by itself, and says the last id in a header when it does. */
export function openEventSource(url, lastId, types, on) {
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
export function openFetch(url, lastId, on, request = {}) {
  const abort = new AbortController();
  keepOpen(url, lastId, on, request, abort.signal);
  return () => {
    abort.abort();
    on.state?.("closed");
  };
}

async function keepOpen(url, lastId, on, request, signal) {
  let id = lastId;
  let retry = 3000;
  let stream = "";
  const own = {
    ...on,
    id: (next) => {
      // a block before the first id says nothing of the one that we came back with
      if (next !== "") on.id?.(id = next);
    },
    retry: (ms) => {
      retry = ms;
      on.retry?.(ms);
    },
    event: (event) => {
      // without ids in the bytes the place is the stream and the count of its events
      if (stream && event.id === "") on.id?.(id = following(id, stream));
      on.event(event);
    },
  };
  on.state?.("connecting");
  while (!signal.aborted) {
    let lost;
    const headers = { Accept: "text/event-stream", ...request.headers, ...(id && { "Last-Event-ID": encodeURI(id) }) };
    try {
      const response = await fetch(url, { ...request, headers, signal, cache: "no-store" });
      const resume = response.headers.get("sse-resume");
      on.open?.(response);
      if (response.status === 204 || resume === "complete") return on.state?.("finished");
      if (!response.ok) throw new Error(`the answer is ${response.status} ${response.statusText}`.trim());
      stream = response.headers.get("sse-stream") ?? "";
      if (resume !== "resumed" && stream) id = "";
      on.state?.("open");
      lost = await read(response, own) ? "ended between two events" : "ended in the middle of an event";
    } catch (error) {
      // lost, refused or aborted: the loop knows which
      lost = error.message.startsWith("the answer") ? error.message : "the connection broke";
    }
    if (!signal.aborted) {
      on.state?.("reconnecting", `${lost}; the page asks again in ${retry} ms`);
      await sleep(retry, signal);
    }
  }
}

function following(id, stream) {
  const [of, count] = id.split(".");
  return `${stream}.${of === stream ? Number(count) + 1 : 1}`;
}

/** To a clean end; says whether it came between two events. */
export async function read(response, on) {
  const parser = new Parser(on);
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parser.betweenEvents;
    on.bytes?.(value);
    parser.push(value);
  }
}
