// openai, of two major versions.
const { ask, messages, model, Calls, run } = require("./jobs.cjs");

const chat = { model, messages, stream: true, stream_options: { include_usage: true } };
const client = (base, name) => {
  const { OpenAI } = require(name);
  return new OpenAI({ apiKey: "none", maxRetries: 0, logLevel: "off", baseURL: `${base}/v1` });
};

run({
  async "chat create"(base, reading, name) {
    const calls = new Calls();
    for await (const chunk of await client(base, name).chat.completions.create(chat)) {
      reading.events.push(chunk);
      for (const { delta } of chunk.choices) {
        reading.text += delta.content ?? "";
        for (const { index, function: piece } of delta.tool_calls ?? [])
          calls.add(index, piece.name, piece.arguments);
      }
    }
    calls.finish(reading);
  },
  async "chat helper"(base, reading, name) {
    const stream = client(base, name).chat.completions.stream(chat);
    for await (const chunk of stream) reading.events.push(chunk);
    const whole = await stream.finalChatCompletion();
    const { message } = whole.choices[0];
    reading.events.push(whole);
    reading.text = message.content;
    for (const { function: call } of message.tool_calls ?? []) reading.tool(call.name, call.arguments);
  },
  async "responses create"(base, reading, name) {
    const request = { model, input: ask, stream: true };
    for await (const event of await client(base, name).responses.create(request)) {
      reading.events.push(event);
      if (event.type === "response.output_text.delta") reading.text += event.delta;
      if (event.type === "response.function_call_arguments.done")
        reading.tool(event.name, event.arguments);
    }
  },
  async "responses helper"(base, reading, name) {
    const stream = client(base, name).responses.stream({ model, input: ask });
    for await (const event of stream) reading.events.push(event);
    const whole = await stream.finalResponse();
    reading.events.push(whole);
    reading.text = whole.output_text;
    for (const item of whole.output)
      if (item.type === "function_call") reading.tool(item.name, item.arguments);
  },
});
