// What the parts of the page have in common: their elements, their figures, and how times are written.
// What a server sent is only ever shown with textContent.

export const element = (testid) => document.querySelector(`[data-testid="${testid}"]`);

/** An element with its children, of which strings become text. */
export function make(tag, { testid, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (testid) made.dataset.testid = testid;
  made.append(...children);
  return made;
}

export const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
});

export const seconds = (ms) => `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;

/** Of a list that only grows, the newest entries; it stays at its end, unless somebody has scrolled up to read. */
export function append(list, item, most) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.childElementCount > most) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** The row of counters of one stream; each can be read by a test as `<stream>-<figure>`. */
export class Stats {
  constructor(stream, figures) {
    this.values = {};
    const list = document.querySelector(`[data-stats="${stream}"]`);
    for (const [name, [label, value]] of Object.entries(figures)) {
      const field = this.values[name] = make("dd", { testid: `${stream}-${name}` });
      list.append(make("div", {}, make("dt", { textContent: label }), field));
      this.set(name, value);
    }
  }

  set(name, value) {
    const field = this.values[name];
    field.textContent = value;
    field.title = value;
    if (name === "state") field.dataset.state = value;
  }

  add(name, more = 1) {
    this.set(name, (Number(this.values[name].textContent) || 0) + more);
  }

  get(name) {
    return this.values[name].textContent;
  }
}

/** What a reload must not lose. */
export class Kept {
  constructor(name, start) {
    this.name = name;
    this.start = start;
    this.now = { ...start, ...JSON.parse(sessionStorage.getItem(name)) };
  }

  change(changes) {
    this.now = { ...this.now, ...changes };
    sessionStorage.setItem(this.name, JSON.stringify(this.now));
  }
}
