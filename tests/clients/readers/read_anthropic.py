"""anthropic."""

import anthropic
from jobs import MESSAGES, MODEL, Calls, run

ASK = {"model": MODEL, "max_tokens": 64, "messages": MESSAGES}
OPTIONS = {"api_key": "none", "max_retries": 0}


def event(event, reading, calls):
    reading.add(event)
    if event.type == "content_block_start" and event.content_block.type == "tool_use":
        calls.add(event.index, event.content_block.name, "")
    if event.type == "content_block_delta":
        if event.delta.type == "text_delta":
            reading.text += event.delta.text
        if event.delta.type == "input_json_delta":
            calls.add(event.index, "", event.delta.partial_json)


def messages(base, reading):
    calls = Calls()
    client = anthropic.Anthropic(base_url=base, **OPTIONS)
    for part in client.messages.create(stream=True, **ASK):
        event(part, reading, calls)
    calls.finish(reading)


async def async_messages(base, reading):
    calls = Calls()
    client = anthropic.AsyncAnthropic(base_url=base, **OPTIONS)
    async for part in await client.messages.create(stream=True, **ASK):
        event(part, reading, calls)
    calls.finish(reading)


def helper(base, reading):
    client = anthropic.Anthropic(base_url=base, **OPTIONS)
    with client.messages.stream(**ASK) as stream:
        for part in stream:
            reading.add(part)
        whole = stream.get_final_message()
    reading.add(whole)
    for block in whole.content:
        if block.type == "text":
            reading.text += block.text
        if block.type == "tool_use":
            reading.tool(block.name, block.input)


run({
    ("messages", "create"): messages,
    ("messages", "async"): async_messages,
    ("messages", "helper"): helper,
})
