"""An event stream as people write it with Tornado: two headers, a list and a condition.

GET  /sse  streams all events so far, then each new one.
POST /sse  appends one event; form fields: data, and if wanted event and id.

Nothing here knows of heartbeats, proxies, compression or shutdown: that is the gateway's work.
Prints `tornado listening on http://127.0.0.1:PORT` once it listens.
"""

import asyncio

import tornado.httpserver
import tornado.iostream
import tornado.locks
import tornado.netutil
import tornado.web

EVENTS = []
ADDED = tornado.locks.Condition()


def block(event_id, event, data):
    lines = []
    if event_id:
        lines.append(f"id: {event_id}")
    if event:
        lines.append(f"event: {event}")
    lines += [f"data: {line}" for line in data.split("\n")]
    return "\n".join(lines) + "\n\n"


class Sse(tornado.web.RequestHandler):
    async def get(self):
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        sent = 0
        try:
            await self.flush()
            while True:
                for text in EVENTS[sent:]:
                    self.write(text)
                    sent += 1
                    await self.flush()
                if sent == len(EVENTS):
                    await ADDED.wait()
        except tornado.iostream.StreamClosedError:
            pass  # the client has gone

    def post(self):
        field = lambda name: self.get_body_argument(name, "", strip=False)
        EVENTS.append(block(field("id"), field("event"), field("data")))
        ADDED.notify_all()
        self.set_status(204)


async def main():
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/sse", Sse)]))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]
    print(f"tornado listening on http://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
