"""google-genai."""

from google import genai
from jobs import ASK, MODEL, run


def client(base):
    return genai.Client(api_key="none", http_options={"base_url": base})


def chunk(chunk, reading):
    # It adds the headers of the response, with the time.
    reading.events.append(chunk.model_dump(mode="json", exclude={"sdk_http_response"}))
    for part in chunk.candidates[0].content.parts:
        reading.text += part.text or ""
        if part.function_call:
            reading.tool(part.function_call.name, part.function_call.args)


def generate(base, reading):
    ask = {"model": MODEL, "contents": ASK}
    google = client(base)
    for part in google.models.generate_content_stream(**ask):
        chunk(part, reading)


async def async_generate(base, reading):
    ask = {"model": MODEL, "contents": ASK}
    google = client(base)
    async for part in await google.aio.models.generate_content_stream(**ask):
        chunk(part, reading)


run({
    ("gemini", "create"): generate,
    ("gemini", "async"): async_generate,
})
