// @anthropic-ai/sdk.
const { Anthropic } = require("@anthropic-ai/sdk");
const { messages, model, Calls, run } = require("./jobs.cjs");

const request = { model, max_tokens: 64, messages };
const client = (baseURL) => new Anthropic({ apiKey: "none", maxRetries: 0, logLevel: "off", baseURL });

run({
  async "messages create"(base, reading) {
    const calls = new Calls();
    for await (const event of await client(base).messages.create({ ...request, stream: true })) {
      reading.events.push(event);
      if (event.type === "content_block_start" && event.content_block.type === "tool_use")
        calls.add(event.index, event.content_block.name);
      reading.text += event.delta?.text ?? "";
      if (event.delta?.type === "input_json_delta")
        calls.add(event.index, "", event.delta.partial_json);
    }
    calls.finish(reading);
  },
  async "messages helper"(base, reading) {
    const stream = client(base).messages.stream(request);
    for await (const event of stream) reading.events.push(event);
    const whole = await stream.finalMessage();
    reading.events.push(whole);
    for (const block of whole.content) {
      reading.text += block.text ?? "";
      if (block.type === "tool_use") reading.tool(block.name, block.input);
    }
  },
});
