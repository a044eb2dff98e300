"""Reads many streams with the official SDKs for Python, as programs do that use them.

The file that it is given has a job in each line, in JSON: `id`, `protocol`, `base` (the address of
the API), and `way`: `create` iterates over the raw events, `helper` lets the SDK put the answer
together. For each job it prints one line: what was read, and the error, if there was one.
"""

import asyncio
import json
import sys

import anthropic
import openai

AT_ONCE = 24
MODEL = "any"
MESSAGES = [{"role": "user", "content": "Hello?"}]


async def chat_create(client, answer):
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        answer["events"] += 1
        for choice in chunk.choices:
            answer["text"] += choice.delta.content or ""
            answer["finish"] = choice.finish_reason or answer["finish"]


async def chat_helper(client, answer):
    async with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        async for _ in stream:
            answer["events"] += 1
        whole = await stream.get_final_completion()
    answer["text"] = whole.choices[0].message.content
    answer["finish"] = whole.choices[0].finish_reason


async def responses_create(client, answer):
    stream = await client.responses.create(model=MODEL, input="Hello?", stream=True)
    async for event in stream:
        answer["events"] += 1
        if event.type == "response.output_text.delta":
            answer["text"] += event.delta
        if event.type == "response.completed":
            answer["finish"] = event.response.status


async def responses_helper(client, answer):
    async with client.responses.stream(model=MODEL, input="Hello?") as stream:
        async for _ in stream:
            answer["events"] += 1
        whole = await stream.get_final_response()
    answer["text"] = whole.output_text
    answer["finish"] = whole.status


async def messages_create(client, answer):
    stream = await client.messages.create(
        model=MODEL, max_tokens=64, messages=MESSAGES, stream=True
    )
    async for event in stream:
        answer["events"] += 1
        if event.type == "content_block_delta":
            answer["text"] += event.delta.text
        if event.type == "message_delta":
            answer["finish"] = event.delta.stop_reason


async def messages_helper(client, answer):
    async with client.messages.stream(model=MODEL, max_tokens=64, messages=MESSAGES) as stream:
        async for _ in stream:
            answer["events"] += 1
        whole = await stream.get_final_message()
    answer["text"] = "".join(block.text for block in whole.content)
    answer["finish"] = whole.stop_reason


WAYS = {
    ("chat", "create"): chat_create,
    ("chat", "helper"): chat_helper,
    ("responses", "create"): responses_create,
    ("responses", "helper"): responses_helper,
    ("messages", "create"): messages_create,
    ("messages", "helper"): messages_helper,
}


def client_of(job, clients):
    # A client of its own for each job would load the certificates of the system each time.
    if job["protocol"] == "messages":
        return clients["anthropic"].with_options(base_url=job["base"])
    return clients["openai"].with_options(base_url=job["base"] + "/v1")


async def read(job, clients, places):
    answer = {"id": job["id"], "text": "", "finish": None, "events": 0, "error": None}
    async with places:
        try:
            way = WAYS[job["protocol"], job["way"]]
            await way(client_of(job, clients), answer)
        except Exception as error:
            kind = type(error)
            answer["error"] = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
            answer["message"] = str(error)
            answer["typed"] = isinstance(error, (openai.APIError, anthropic.APIError))
            answer["said"] = getattr(error, "body", None)
    print(json.dumps(answer), flush=True)


async def main():
    with open(sys.argv[1]) as file:
        jobs = [json.loads(line) for line in file]
    clients = {
        "openai": openai.AsyncOpenAI(api_key="none", max_retries=0),
        "anthropic": anthropic.AsyncAnthropic(api_key="none", max_retries=0),
    }
    places = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(read(job, clients, places) for job in jobs))


asyncio.run(main())
