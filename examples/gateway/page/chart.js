// Lines over a scale with labels, in SVG. It is drawn in the pixels that it has, so that its texts are never stretched.

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 276;
const MARGIN = { top: 14, right: 14, bottom: 40, left: 46 };

/** About so many pixels from one number on an axis to the next. */
const APART = { x: 70, y: 40 };

export class Chart {
  /** `x` and `y` name the axes; each series has the class `series-<name>`. What is `counted` has no halves. */
  constructor(svg, { x, y, series, height = HEIGHT, counted = false }) {
    Object.assign(this, { svg, x, y, height, counted, names: series, data: {}, range: [0, 1] });
    new ResizeObserver(() => this.#draw()).observe(svg.parentElement);
  }

  /** `data` holds points [x, y] by series; `range` is where the x-axis begins and ends. */
  show(data, range) {
    Object.assign(this, { data, range });
    this.#draw();
  }

  #draw() {
    const width = this.svg.parentElement.clientWidth;
    if (width === 0) return;
    this.box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: this.height - MARGIN.bottom };
    const { left, right, top, bottom } = this.box;
    const all = this.names.flatMap((name) => this.data[name] ?? []);
    const highest = Math.max(...all.map(([, y]) => y), 0) || 1;
    const most = (bottom - top) / APART.y;
    const yTicks = ticks(0, highest, this.counted ? Math.min(highest, most) : most);
    const xTicks = ticks(...this.range, (right - left) / APART.x).filter((x) => x <= this.range[1] && x >= this.range[0]);
    this.top = yTicks.at(-1);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    this.svg.replaceChildren(
      ...yTicks.flatMap((y) => this.#yTick(y)),
      ...xTicks.map((x) => text(short(x), "tick", this.#px(x), bottom + 16, "middle")),
      text(this.x, "axis", (left + right) / 2, this.height - 4, "middle"),
      text(this.y, "axis", 12, (top + bottom) / 2, "middle", `rotate(-90 12 ${(top + bottom) / 2})`),
      ...this.names.flatMap((name) => this.#line(name, this.data[name] ?? [])),
    );
  }

  #yTick(y) {
    const { left, right } = this.box;
    const at = this.#py(y);
    const line = draw("line", { class: "grid", x1: left, x2: right, y1: at, y2: at });
    return [line, text(short(y), "tick", left - 8, at + 4, "end")];
  }

  #line(name, points) {
    if (points.length === 0) return [];
    const at = points.map(([x, y]) => `${this.#px(x).toFixed(1)},${this.#py(y).toFixed(1)}`);
    const line = draw("polyline", { class: `series series-${name}`, points: at.join(" ") });
    const [x, y] = points.at(-1);
    return [line, draw("circle", { class: `head series-${name}`, cx: this.#px(x), cy: this.#py(y), r: 3.5 })];
  }

  #px(x) {
    const [from, to] = this.range;
    return this.box.left + (this.box.right - this.box.left) * (x - from) / (to - from || 1);
  }

  #py(y) {
    return this.box.bottom - (this.box.bottom - this.box.top) * y / this.top;
  }
}

/** Round numbers from below `from` to above `to`, about `count` of them. */
function ticks(from, to, count) {
  const rough = (to - from) / Math.max(1, Math.floor(count)) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((step) => step * power >= rough * 0.999) * power;
  const first = Math.floor(from / step + 1e-9);
  const last = Math.ceil(to / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, n) => (first + n) * step);
}

const short = (number) => String(Number(number.toPrecision(6)));

function text(content, kind, x, y, anchor, transform) {
  const made = draw("text", { class: kind, x, y, "text-anchor": anchor, ...(transform && { transform }) });
  made.textContent = content;
  return made;
}

function draw(tag, attributes) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
