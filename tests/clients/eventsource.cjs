// The npm package `eventsource`: a line of JSON for each event, and one when it gives up.
const { load } = require("./readers/jobs.cjs");

load("eventsource").then(({ EventSource }) => {
  const source = new EventSource(process.argv[2]);
  // By itself it does not keep a program alive that waits to come back.
  const alive = setInterval(() => {}, 1000);
  for (const kind of ["message", "note"])
    source.addEventListener(kind, (event) =>
      console.log(JSON.stringify({ kind: event.type, data: event.data, id: event.lastEventId })));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    console.log("closed");
    clearInterval(alive);
  });
});
