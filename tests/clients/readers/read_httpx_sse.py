"""httpx-sse."""

import httpx
from httpx_sse import aconnect_sse, connect_sse
from jobs import run


def feed(base, reading):
    with httpx.Client() as client, connect_sse(client, "GET", base + "/feed") as source:
        for event in source.iter_sse():
            reading.feed_event(event.event, event.data, event.id)


async def async_feed(base, reading):
    async with httpx.AsyncClient() as client:
        async with aconnect_sse(client, "GET", base + "/feed") as source:
            async for event in source.aiter_sse():
                reading.feed_event(event.event, event.data, event.id)


run({
    ("feed", "create"): feed,
    ("feed", "async"): async_feed,
})
