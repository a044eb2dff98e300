// Predictions: a batch that is worked through, each result shown when it is there and not when all are.

import { Kept, Stats, append, element, make, seconds } from "./figures.js";
import { cut, cuttable, openEventSource, report, room } from "./streams.js";

const NAME = "predictions";
const ROWS = 200;
const START = { rows: [], total: 0, lastId: "", reconnects: 0, asked: 0, first: "–", rate: "–", pause: "300", live: false, done: false };

const form = document.getElementById("predictions-form");
const kept = new Kept(NAME, START);
const stats = new Stats(NAME, {
  state: ["state", "idle"],
  results: ["results", 0],
  first: ["first after", "–"],
  rate: ["per second", "–"],
  reconnects: ["reconnects", 0],
});
const list = element("predictions-list");
let close = () => {};

form.onsubmit = (submit) => {
  submit.preventDefault();
  close();
  kept.change({ ...START, pause: new FormData(form).get("pause"), asked: Date.now() });
  list.replaceChildren();
  show();
  run();
};
element("predictions-stop").onclick = () => close();
element("predictions-reconnect").onclick = () => kept.now.asked && run();
element("predictions-cut").onclick = () => cut(NAME);

function run() {
  close();
  if (!room(NAME)) return;
  kept.change({ live: true });
  const url = cuttable(`/predictions?pause_ms=${kept.now.pause}`, NAME);
  const end = openEventSource(url, kept.now.lastId, ["prediction", "done"], { state, id: (lastId) => kept.change({ lastId }), event });
  close = () => kept.now.live && end();
}

function state(state) {
  const { done } = kept.now;
  const now = state === "refused" && done ? "finished" : state;
  if (now === "reconnecting" && stats.get("state") !== now && !done) kept.change({ reconnects: kept.now.reconnects + 1 });
  stats.set("state", now);
  report(NAME, "Predictions", now, done && now === "reconnecting" ? "the batch is done; the browser asks once more and is told 204" : undefined);
  // the browser refuses an EventSource any more as soon as its page goes, which a reload must not take for an end
  if (["closed", "finished"].includes(now)) kept.change({ live: false });
  show();
}

function event({ type, data }) {
  const result = JSON.parse(data);
  if (type === "done") return kept.change({ done: true });
  const { rows, asked, first } = kept.now;
  const took = Date.now() - asked;
  kept.change({
    rows: [...rows, result].slice(-ROWS),
    total: result.total,
    first: first === "–" ? seconds(took) : first,
    rate: (result.n / (took / 1000)).toFixed(1),
  });
  append(list, row(result), ROWS);
  show();
}

/** The confidence is a number first; the bar only repeats it. */
function row({ text, label, confidence }) {
  const bar = make("span", { className: "bar", ariaHidden: "true" }, make("span"));
  bar.firstChild.style.inlineSize = `${confidence * 100}%`;
  return make("li", {},
    make("span", { className: "text", textContent: text }),
    make("span", { className: "label", textContent: label }),
    make("span", { className: "confidence" }, bar, `${Math.round(confidence * 100)} %`));
}

function show() {
  const { rows, total, first, rate, reconnects } = kept.now;
  const n = rows.at(-1)?.n ?? 0;
  for (const [name, value] of Object.entries({ results: n, first, rate, reconnects })) stats.set(name, value);
  Object.assign(element("predictions-progress"), { value: n, max: total || 1 });
  element("predictions-count").textContent = n ? `${n} of ${total}` : "not started";
}

// === After a reload ===

form.elements.pause.value = kept.now.pause;
list.append(...kept.now.rows.map(row));
list.scrollTop = list.scrollHeight;
show();
if (kept.now.live) run();
else if (kept.now.done) stats.set("state", "finished");
