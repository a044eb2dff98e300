"""What the readers in Python share.

A reader is given a file with a job in each line, in JSON: `id`, `client` (the package), `protocol`,
`way` (how the package is used) and `base` (the address of the API). It reads all of them, and prints for
each a line with its `reading`: the events as the client gives them, the text and the tool calls that
they make together, and the error, if there was one.
"""

import asyncio
import inspect
import json
import sys
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 12
MODEL = "any"
ASK = "Hello?"
MESSAGES = [{"role": "user", "content": ASK}]


class Reading:
    def __init__(self):
        self.events = []
        self.text = ""
        self.tools = []
        self.error = None

    def add(self, event):
        """An event of a library that makes models of them."""
        dump = event.model_dump(mode="json", exclude_unset=True, warnings=False)
        self.events.append(dump)

    def feed_event(self, kind, data, id):
        self.events.append({"kind": kind, "data": data, "id": id})
        self.text += f"{data}|"

    def tool(self, name, arguments):
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        self.tools.append([name, arguments])


class Calls:
    """Tool calls of which pieces come."""

    def __init__(self):
        self.pieces = {}

    def add(self, index, name, arguments):
        call = self.pieces.setdefault(index, ["", ""])
        call[0] += name or ""
        call[1] += arguments or ""

    def finish(self, reading):
        for name, arguments in self.pieces.values():
            reading.tool(name, arguments)


def run(ways):
    """`ways` has a function for each (protocol, way): of the base, and of the reading to fill."""
    with open(sys.argv[1]) as file:
        jobs = [json.loads(line) for line in file]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in pool.map(lambda job: read(ways, job), jobs):
            print(line, flush=True)


def read(ways, job):
    reading = Reading()
    way = ways[job["protocol"], job["way"]]
    try:
        done = way(job["base"], reading)
        if inspect.iscoroutine(done):
            asyncio.run(done)
    except Exception as error:
        reading.error = f"{type(error).__name__}: {error}"
    return json.dumps({"id": job["id"], "reading": vars(reading)})
