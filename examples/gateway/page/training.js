// A training run: a stream that ends, and a chart of it that goes on after a cut or a reload.

import { Chart } from "./chart.js";
import { Kept, Stats, element } from "./figures.js";
import { cut, cuttable, openEventSource, report, room } from "./streams.js";

const NAME = "training";
const START = { losses: [], validation: [], epochs: 0, events: 0, reconnects: 0, lastId: "", pause: "300", live: false, done: false };

const form = document.getElementById("training-form");
const kept = new Kept(NAME, START);
const stats = new Stats(NAME, {
  state: ["state", "idle"],
  events: ["events", kept.now.events],
  reconnects: ["reconnects", kept.now.reconnects],
  "last-id": ["last id", kept.now.lastId || "none"],
});
const chart = new Chart(element("training-chart"), { x: "epoch", y: "loss", series: ["validation", "loss"] });
let close = () => {};

form.onsubmit = (submit) => {
  submit.preventDefault();
  close();
  kept.change({ ...START, pause: new FormData(form).get("pause") });
  show();
  train();
};
element("training-disconnect").onclick = () => close();
element("training-reconnect").onclick = () => train();
element("training-cut").onclick = () => cut(NAME);

function train() {
  close();
  if (!room(NAME)) return;
  kept.change({ live: true });
  const url = cuttable(`/training?pause_ms=${kept.now.pause}`, NAME);
  const end = openEventSource(url, kept.now.lastId, ["progress", "done"], { state, id, event });
  close = () => kept.now.live && end();
}

function state(state) {
  const { done } = kept.now;
  const now = state === "refused" && done ? "finished" : state;
  if (now === "reconnecting" && stats.get("state") !== now && !done) kept.change({ reconnects: kept.now.reconnects + 1 });
  stats.set("reconnects", kept.now.reconnects);
  stats.set("state", now);
  report(NAME, "Training", now, done && now === "reconnecting" ? "the run is done; the browser asks once more and is told 204" : undefined);
  // the browser refuses an EventSource any more as soon as its page goes, which a reload must not take for an end
  if (["closed", "finished"].includes(now)) kept.change({ live: false });
}

function id(lastId) {
  kept.change({ lastId });
  stats.set("last-id", lastId);
}

function event({ type, data }) {
  const { epoch, epochs, loss, validation_loss: validation } = JSON.parse(data);
  const { losses, validation: before, events } = kept.now;
  kept.change({ events: events + 1, epochs, done: type === "done" });
  if (type === "progress") {
    kept.change({ losses: [...losses, [epoch, loss]], validation: [...before, [epoch, validation]] });
  }
  show();
}

function show() {
  const { losses, validation, epochs, events, lastId, done } = kept.now;
  stats.set("events", events);
  stats.set("last-id", lastId || "none");
  const [epoch, loss] = losses.at(-1) ?? [0];
  Object.assign(element("training-progress"), { value: epoch, max: epochs || 1 });
  element("training-epoch").textContent = !epoch ? "not started" :
    done ? `done, loss ${loss.toFixed(4)}` : `epoch ${epoch} of ${epochs}, loss ${loss.toFixed(4)}`;
  chart.show({ loss: losses, validation }, [0, epochs || 40]);
  element("training-description").textContent = !epoch ? "Nothing yet." :
    `Loss by epoch, to epoch ${epoch} of ${epochs}: training ${losses[0][1]} to ${loss}, validation ${validation[0][1]} to ${validation.at(-1)[1]}.`;
}

// === After a reload ===

form.elements.pause.value = kept.now.pause;
show();
if (kept.now.live) train();
else if (kept.now.done) stats.set("state", "finished");
