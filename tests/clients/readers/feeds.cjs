// eventsource, eventsource-parser and @microsoft/fetch-event-source.
const { load, run } = require("./jobs.cjs");

// The types of events that the feed has.
const KINDS = ["message", "note", "größe"];

run({
  async "feed eventsource"(base, reading) {
    const { EventSource } = await load("eventsource");
    const source = new EventSource(`${base}/feed`);
    for (const kind of KINDS)
      source.addEventListener(kind, ({ type, data, lastEventId }) =>
        reading.feedEvent(type, data, lastEventId));
    // By itself it does not keep a program alive that waits to come back.
    const alive = setInterval(() => {}, 1000);
    // It comes back, and learns that there is no more.
    await new Promise((resolve) =>
      source.addEventListener("error", () => source.readyState === EventSource.CLOSED && resolve()));
    clearInterval(alive);
  },
  // By hand, with what `fetch` asks for by itself.
  async "feed parser"(base, reading) {
    const { createParser } = await load("eventsource-parser");
    const parser = createParser({
      onEvent: ({ event, data, id }) => reading.feedEvent(event, data, id),
      onError({ type, message }) {
        // the feed has one
        if (type !== "unknown-field") reading.error = `${type}: ${message}`;
      },
    });
    const { body } = await fetch(`${base}/feed`);
    for await (const text of body.pipeThrough(new TextDecoderStream())) parser.feed(text);
  },
  async "feed stream"(base, reading) {
    const { EventSourceParserStream } = await load("eventsource-parser/stream");
    const { body } = await fetch(`${base}/feed`, { headers: { accept: "text/event-stream" } });
    const events = body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
    for await (const { event, data, id } of events) reading.feedEvent(event, data, id);
  },
  async "feed fetch"(base, reading) {
    // It is for browsers.
    globalThis.window ??= globalThis;
    globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    await fetchEventSource(`${base}/feed`, {
      onmessage: ({ event, data, id }) => reading.feedEvent(event, data, id),
      onerror(error) {
        throw error;
      },
    });
  },
});
