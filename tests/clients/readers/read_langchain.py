"""langchain-openai and langchain-anthropic."""

import os

os.environ["LANGSMITH_TRACING"] = "false"

from jobs import ASK, MODEL, run
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI


def model(protocol, base):
    if protocol == "messages":
        return ChatAnthropic(model=MODEL, api_key="none", base_url=base, max_retries=0)
    return ChatOpenAI(
        model=MODEL,
        api_key="none",
        base_url=base + "/v1",
        max_retries=0,
        stream_usage=True,
        use_responses_api=protocol == "responses",
    )


def chunk(chunk, whole, reading):
    # Its own ids are new each time.
    reading.events.append(chunk.model_dump(mode="json", exclude={"id"}))
    return chunk if whole is None else whole + chunk


def finish(whole, reading):
    reading.text = whole.text
    for call in whole.tool_calls:
        reading.tool(call["name"], call["args"])


def stream(protocol):
    def read(base, reading):
        whole = None
        for part in model(protocol, base).stream(ASK):
            whole = chunk(part, whole, reading)
        finish(whole, reading)

    return read


def astream(protocol):
    async def read(base, reading):
        whole = None
        async for part in model(protocol, base).astream(ASK):
            whole = chunk(part, whole, reading)
        finish(whole, reading)

    return read


run({
    (protocol, way): of(protocol)
    for protocol in ("chat", "responses", "messages")
    for way, of in (("create", stream), ("async", astream))
})
