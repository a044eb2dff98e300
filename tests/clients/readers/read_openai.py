"""openai."""

import openai
from jobs import ASK, MESSAGES, MODEL, Calls, run

OPTIONS = {"api_key": "none", "max_retries": 0}
CHAT = {"model": MODEL, "messages": MESSAGES, "stream_options": {"include_usage": True}}
RESPONSES = {"model": MODEL, "input": ASK}


def client(base):
    return openai.OpenAI(base_url=base + "/v1", **OPTIONS)


def async_client(base):
    return openai.AsyncOpenAI(base_url=base + "/v1", **OPTIONS)


def chunk(chunk, reading, calls):
    reading.add(chunk)
    for choice in chunk.choices:
        reading.text += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            calls.add(piece.index, piece.function.name, piece.function.arguments)


def chat(base, reading):
    calls = Calls()
    for part in client(base).chat.completions.create(stream=True, **CHAT):
        chunk(part, reading, calls)
    calls.finish(reading)


async def async_chat(base, reading):
    calls = Calls()
    async for part in await async_client(base).chat.completions.create(stream=True, **CHAT):
        chunk(part, reading, calls)
    calls.finish(reading)


def chat_helper(base, reading):
    with client(base).chat.completions.stream(**CHAT) as stream:
        for event in stream:
            reading.add(event)
        whole = stream.get_final_completion()
    reading.add(whole)
    message = whole.choices[0].message
    reading.text = message.content
    for call in message.tool_calls or []:
        reading.tool(call.function.name, call.function.arguments)


def event(event, reading):
    reading.add(event)
    if event.type == "response.output_text.delta":
        reading.text += event.delta
    if event.type == "response.function_call_arguments.done":
        reading.tool(event.name, event.arguments)


def responses(base, reading):
    for part in client(base).responses.create(stream=True, **RESPONSES):
        event(part, reading)


async def async_responses(base, reading):
    async for part in await async_client(base).responses.create(stream=True, **RESPONSES):
        event(part, reading)


def responses_helper(base, reading):
    with client(base).responses.stream(**RESPONSES) as stream:
        for part in stream:
            reading.add(part)
        whole = stream.get_final_response()
    reading.add(whole)
    reading.text = whole.output_text
    for item in whole.output:
        if item.type == "function_call":
            reading.tool(item.name, item.arguments)


run({
    ("chat", "create"): chat,
    ("chat", "async"): async_chat,
    ("chat", "helper"): chat_helper,
    ("responses", "create"): responses,
    ("responses", "async"): async_responses,
    ("responses", "helper"): responses_helper,
})
