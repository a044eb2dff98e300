// What the readers in JavaScript share: see `jobs.py`.
const fs = require("node:fs");
const { pathToFileURL } = require("node:url");

const AT_ONCE = 12;
const model = "any";
const ask = "Hello?";
const messages = [{ role: "user", content: ask }];

class Reading {
  events = [];
  text = "";
  tools = [];
  error = null;

  tool(name, input) {
    this.tools.push([name, typeof input === "string" ? JSON.parse(input) : input]);
  }

  feedEvent(kind, data, id) {
    this.events.push({ kind, data, id });
    this.text += `${data}|`;
  }
}

// Tool calls of which pieces come.
class Calls {
  pieces = new Map();

  add(index, name, input) {
    const call = this.pieces.get(index) ?? ["", ""];
    this.pieces.set(index, [call[0] + (name ?? ""), call[1] + (input ?? "")]);
  }

  finish(reading) {
    for (const [name, input] of this.pieces.values()) reading.tool(name, input);
  }
}

// The packages are not found from here, and some are modules.
const load = (name) => import(pathToFileURL(require.resolve(name)));

// `ways` has a function for each `protocol way`: of the base, of the reading to fill, and of the package.
async function run(ways) {
  const lines = fs.readFileSync(process.argv[2], "utf8").trim().split("\n");
  const jobs = lines.map((line) => JSON.parse(line));
  const worker = async () => {
    for (let job; (job = jobs.shift()); ) {
      const reading = new Reading();
      try {
        await ways[`${job.protocol} ${job.way}`](job.base, reading, job.client);
      } catch (error) {
        reading.error = `${error?.constructor.name}: ${error?.message}`;
      }
      console.log(JSON.stringify({ id: job.id, reading }));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

module.exports = { model, ask, messages, Calls, load, run };
