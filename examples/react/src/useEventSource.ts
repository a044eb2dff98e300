/**
 * A server's event stream as a React hook, over the browser's own EventSource:
 *
 *     const { status, lastId } = useEventSource("/sse", {
 *       on: { message: (data) => setLines((lines) => [...lines, data]) },
 *     });
 *
 * EventSource reads the stream, and after a lost connection it comes back by itself with its last id.
 * The hook adds what a page needs besides:
 *
 * - It is cleaned up: on unmount, on another URL, and when the page goes into the browser's
 *   back/forward cache, which takes no page with an open stream.
 * - It is safe in StrictMode: one mount is one connection, in development too.
 * - An answer that is no stream ends an EventSource for good, and no property says which answer it was. A
 *   proxy whose upstream restarts gives such a one, so the hook asks once with `fetch` and decides:
 *
 *   | the answer                  | what the hook does                                                  |
 *   |-----------------------------|---------------------------------------------------------------------|
 *   | none, or a stream after all | `waiting`: comes back, ever more slowly                             |
 *   | 408, 425, 429, 5xx          | `refused`: the same, and not before its `Retry-After`               |
 *   | 204                         | `closed`: the server's way to say that the stream is complete       |
 *   | any other                   | `refused`, and `over`: the same question would get the same answer  |
 *
 * - A server that is full lets an EventSource in for an empty answer, which says when to come back. That is
 *   `refused` and not a flicker of `open`: a visit counts when it brings an event or lasts for a second.
 *
 * What no page can see: comments, so also heartbeats; and a connection that died without a word.
 *
 * This file needs nothing but React 19.2 (for useEffectEvent). Take it along.
 */

import { useCallback, useEffect, useEffectEvent, useRef, useState } from "react";

export type Status =
  /** The first connection is being made. */
  | "connecting"
  /** Events arrive when there are any. */
  | "open"
  /** The connection was lost; the browser or the hook will come back. */
  | "waiting"
  /** The server answered, but without a stream. Unless it is `over`, the hook will come back. */
  | "refused"
  /** There is no more to come, or nobody asked for it. */
  | "closed";

export interface StreamState {
  readonly status: Status;
  /** Nothing happens any more, unless `reconnect` is called. */
  readonly over: boolean;
  /** The id of the last event that had a listener here; empty while there is none. */
  readonly lastId: string;
  /** How often the stream came back. */
  readonly reconnects: number;
  /** The status code of the answer that was no stream, while `refused` or `closed` for it. */
  readonly answer: number | null;
}

export interface Stream extends StreamState {
  /** Ends the connection; the last id is kept for `reconnect`. */
  readonly close: () => void;
  /** Connects at once, behind the last id, whatever the status is. */
  readonly reconnect: () => void;
}

/** By the name of the event; `message` is the one without a name. */
export type Listeners = Readonly<Record<string, (data: string, event: MessageEvent<string>) => void>>;

export interface Options {
  /**
   * Called for each event, always the newest function: it may use props and state as they are. Names may
   * come and go without a new connection.
   */
  readonly on: Listeners;
  /** Whether cookies go to another origin too. */
  readonly withCredentials?: boolean;
  /**
   * The query parameter for the last id. The browser says the id in a header when it comes back by itself; a
   * new EventSource cannot set one.
   */
  readonly lastIdParameter?: string;
  /**
   * What a page does that nobody sees: `stay`, or `leave` and come back when it is seen again. Over HTTP/1.1 a
   * browser has six connections for all tabs of a host, and each stream holds one.
   */
  readonly whenHidden?: "stay" | "leave";
}

/** How long a stream without events must last until it counts as open, in ms. */
const SETTLE = 1_000;
/** The first wait, and what doubling leads to, in ms. */
const FIRST_WAIT = 1_000;
const LONGEST_WAIT = 30_000;

const CONNECTING: StreamState = { status: "connecting", over: false, lastId: "", reconnects: 0, answer: null };
const NOTHING: StreamState = { ...CONNECTING, status: "closed", over: true };

/** The stream at `url`, for as long as the component is there; without a URL there is none. */
export function useEventSource(url: string | null, options: Options): Stream {
  const { withCredentials = false, lastIdParameter = "last_event_id", whenHidden = "stay" } = options;
  const [shown, show] = useState({ url, state: CONNECTING });
  const current = useRef<Connection | null>(null);
  const hear = useEffectEvent((event: MessageEvent<string>) => {
    if (Object.hasOwn(options.on, event.type)) options.on[event.type]?.(event.data, event);
  });

  useEffect(() => {
    if (url === null) return;
    const connection = new Connection(url, {
      withCredentials,
      lastIdParameter,
      whenHidden,
      tell: (state) => show({ url, state }),
      hear: (event) => hear(event),
    });
    current.current = connection;
    return () => {
      connection.dispose();
      current.current = null;
      show({ url: null, state: CONNECTING });
    };
  }, [url, withCredentials, lastIdParameter, whenHidden]);

  // behind the effect above, so that a new connection hears the names too
  useEffect(() => current.current?.listen(Object.keys(options.on)));

  const close = useCallback(() => current.current?.close(), []);
  const reconnect = useCallback(() => current.current?.reconnect(), []);
  // what is shown may still be that of another URL
  const state = url === null ? NOTHING : shown.url === url ? shown.state : CONNECTING;
  return { ...state, close, reconnect };
}

interface Wishes extends Required<Omit<Options, "on">> {
  readonly tell: (state: StreamState) => void;
  readonly hear: (event: MessageEvent<string>) => void;
}

/** One stream over many EventSources, at most one at a time. Knows nothing of React. */
class Connection {
  readonly #url: string;
  readonly #wishes: Wishes;
  readonly #names = new Set<string>();
  /** Ends the listeners on the page, and whatever else would outlive this. */
  readonly #life = new AbortController();
  #state = CONNECTING;
  #source: EventSource | null = null;
  /** The question what the answer was. */
  #question: AbortController | null = null;
  /** Until the next attempt. */
  #wait: number | undefined;
  /** Until a visit without events counts. */
  #visit: number | undefined;
  /** The page is hidden or put away, and nothing is tried until it is back. */
  #away = false;
  /** Attempts since a visit that counted, and whether there was one at all. */
  #failures = 0;
  #counted = false;

  constructor(url: string, wishes: Wishes) {
    this.#url = url;
    this.#wishes = wishes;
    this.#watchPage();
    // StrictMode mounts, unmounts and mounts again in one task: the first of the two connects to nothing.
    queueMicrotask(() => this.#start());
  }

  /** Hears events of these names too. What is heard without a listener is dropped. */
  listen(names: readonly string[]): void {
    for (const name of names.filter((name) => !this.#names.has(name))) {
      this.#names.add(name);
      this.#source?.addEventListener(name, this.#event);
    }
  }

  close(): void {
    if (this.#state.over) return;
    this.#disconnect();
    this.#away = false;
    this.#tell({ status: "closed", over: true, answer: null });
  }

  reconnect(): void {
    if (this.#state.over) this.#tell({ status: "connecting", over: false, answer: null });
    this.#failures = 0;
    this.#connect();
  }

  dispose(): void {
    this.#life.abort();
    this.#disconnect();
  }

  // === The life of an EventSource ===

  #start(): void {
    if (this.#life.signal.aborted || this.#state.over) return;
    // a page may be opened in a tab that nobody sees
    this.#away = document.hidden && this.#wishes.whenHidden === "leave";
    if (!this.#away) this.#connect();
  }

  #connect(): void {
    this.#disconnect();
    this.#away = false;
    const source = new EventSource(this.#address(), { withCredentials: this.#wishes.withCredentials });
    source.onopen = () => this.#opened();
    source.onerror = () => (source.readyState === EventSource.CLOSED ? this.#ended() : this.#lost());
    for (const name of this.#names) source.addEventListener(name, this.#event);
    this.#source = source;
  }

  #disconnect(): void {
    this.#source?.close();
    this.#source = null;
    this.#question?.abort();
    this.#question = null;
    clearTimeout(this.#wait);
    this.#wait = undefined;
    this.#endVisit();
  }

  #opened(): void {
    this.#visit = setTimeout(() => this.#count(), SETTLE);
    // who was refused is let in when the visit counts
    if (this.#state.status !== "refused") this.#tell({ status: "open" });
  }

  #event = (event: MessageEvent<string>): void => {
    this.#count();
    const lastId = event.lastEventId;
    // an event without an id says nothing new, and a new EventSource knows none from before
    if (lastId !== "" && lastId !== this.#state.lastId) this.#tell({ lastId });
    this.#wishes.hear(event);
  };

  /** The visit counts, if it has not yet. */
  #count(): void {
    if (!this.#endVisit()) return;
    const reconnects = this.#state.reconnects + (this.#counted ? 1 : 0);
    this.#counted = true;
    this.#failures = 0;
    this.#tell({ status: "open", reconnects, answer: null });
  }

  /** Whether there was one that did not count. */
  #endVisit(): boolean {
    const visit = this.#visit;
    clearTimeout(visit);
    this.#visit = undefined;
    return visit !== undefined;
  }

  /** The browser comes back by itself, when the stream's `retry` says. */
  #lost(): void {
    this.#tell(this.#endVisit() ? { status: "refused", answer: 200 } : { status: "waiting", answer: null });
  }

  /** The browser does not come back. */
  #ended(): void {
    this.#disconnect();
    // who was refused may be so again
    if (this.#state.status !== "refused") this.#tell({ status: "waiting" });
    void this.#ask();
  }

  // === What the browser does not say ===

  async #ask(): Promise<void> {
    const question = new AbortController();
    this.#question = question;
    const answer = await this.#answer(question.signal).catch(() => null);
    if (question.signal.aborted) return;
    // the head is enough; behind it there may be a stream
    question.abort();
    this.#question = null;
    this.#decide(answer);
  }

  #answer(signal: AbortSignal): Promise<Response> {
    return fetch(this.#address(), {
      headers: { accept: "text/event-stream" },
      cache: "no-store",
      credentials: this.#wishes.withCredentials ? "include" : "same-origin",
      signal,
    });
  }

  #decide(answer: Response | null): void {
    if (answer === null || isStream(answer)) {
      this.#tell({ status: "waiting", answer: null });
      this.#comeBack(0);
    } else if (answer.status === 204) {
      this.#tell({ status: "closed", over: true, answer: 204 });
    } else if (isForNow(answer.status)) {
      this.#tell({ status: "refused", answer: answer.status });
      this.#comeBack(retryAfter(answer));
    } else {
      this.#tell({ status: "refused", over: true, answer: answer.status });
    }
  }

  /** Spread, so that not all pages come back in the same moment. */
  #comeBack(notBefore: number): void {
    const wait = Math.min(FIRST_WAIT * 2 ** this.#failures, LONGEST_WAIT);
    this.#failures += 1;
    this.#wait = setTimeout(() => this.#connect(), notBefore + wait * (0.5 + Math.random() / 2));
  }

  // === The page around it ===

  #watchPage(): void {
    const { signal } = this.#life;
    addEventListener("pagehide", () => this.#leave(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#return(), { signal });
    addEventListener("online", () => this.#hurry(), { signal });
    document.addEventListener("visibilitychange", () => this.#seen(!document.hidden), { signal });
  }

  #seen(seen: boolean): void {
    if (this.#wishes.whenHidden === "leave") return seen ? this.#return() : this.#leave();
    // timers of a page that nobody sees are slow
    if (seen) this.#hurry();
  }

  #leave(): void {
    if (this.#state.over || this.#away) return;
    this.#disconnect();
    this.#away = true;
    this.#tell({ status: "waiting", answer: null });
  }

  #return(): void {
    if (this.#away) this.#connect();
  }

  /** Waits no longer, if it is us who wait. */
  #hurry(): void {
    if (this.#wait !== undefined) this.#connect();
  }

  // === Small things ===

  #address(): string {
    const address = new URL(this.#url, location.href);
    if (this.#state.lastId !== "") address.searchParams.set(this.#wishes.lastIdParameter, this.#state.lastId);
    return address.href;
  }

  #tell(change: Partial<StreamState>): void {
    this.#state = { ...this.#state, ...change };
    if (!this.#life.signal.aborted) this.#wishes.tell(this.#state);
  }
}

function isStream(answer: Response): boolean {
  const type = answer.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  return answer.status === 200 && type === "text/event-stream";
}

function isForNow(status: number): boolean {
  return status >= 500 || [408, 425, 429].includes(status);
}

/** In ms: it is written as seconds or as a date. */
function retryAfter(answer: Response): number {
  const text = answer.headers.get("retry-after") ?? "";
  const wait = /^\d+$/.test(text) ? Number(text) * 1_000 : Date.parse(text) - Date.now();
  return Number.isNaN(wait) ? 0 : Math.max(wait, 0);
}
