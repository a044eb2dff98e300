// The grammar of event streams (HTML standard, 9.2.6). Unlike EventSource it tells of comments too.

export class Parser {
  #decoder = new TextDecoder();
  #rest = "";
  #afterCr = false;
  #id = "";
  #type = "";
  #data = [];

  /** What is told of: `comment`, `retry`, `id` at the end of each block, and `event`. */
  constructor(on) {
    this.on = on;
  }

  /** Whether nothing has begun that has not ended. */
  get betweenEvents() {
    return this.#rest === "" && this.#type === "" && this.#data.length === 0;
  }

  push(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return;
    // a CR ends its line at once; if it was the first half of CRLF, the other half follows here
    const more = this.#afterCr && text.startsWith("\n") ? text.slice(1) : text;
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#rest + more).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
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
