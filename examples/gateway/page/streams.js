// How a stream is read, in both ways that a browser has: EventSource, and fetch with the raw bytes; and how it is
// shown. What a server sent is only ever shown with textContent.

export const element = (testid) => document.querySelector(`[data-testid="${testid}"]`);
export const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
});

// === Figures ===

/** The row of counters of one stream; each can be read by a test as `<stream>-<figure>`. */
export class Stats {
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
export class Wire {
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

export async function read(response, on) {
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
export function openFetch(url, lastId, on) {
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
