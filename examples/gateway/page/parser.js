// The grammar of event streams (HTML standard, 9.2.6). Unlike EventSource it tells of comments too.

export class Parser {
  #decoder = new TextDecoder();
  #rest = "";
  #id = "";
  #type = "";
  #data = [];

  /** What is told of: `line`, `comment`, `retry`, `id` at the end of each block, and `event`. */
  constructor(on) {
    this.on = on;
  }

  /** Whether nothing has begun that has not ended. */
  get betweenEvents() {
    return this.#rest.replace("\r", "") === "" && this.#type === "" && this.#data.length === 0;
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
