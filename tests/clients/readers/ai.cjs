// The AI SDK of Vercel, with its providers.
const { ask, load, model, run } = require("./jobs.cjs");

globalThis.AI_SDK_LOG_WARNINGS = false;

const way = (settings, choose) => async (base, reading, name) => {
  const { streamText, jsonSchema } = await load("ai");
  const provider = choose(await load(name));
  const tool = { description: "any", inputSchema: jsonSchema({ type: "object" }) };
  const { fullStream } = streamText({
    model: provider({ apiKey: "none", name: "any", ...settings(base) }),
    prompt: ask,
    tools: { weather: tool, clock: tool },
    maxRetries: 0,
    onError() {},
  });
  let error;
  // What is new each time: ids of its own, the time, the headers with the time.
  const forgotten = ["id", "messageId", "timestamp", "headers", "request", "performance"];
  // Gemini gives its calls no ids.
  if (name === "@ai-sdk/google") forgotten.push("toolCallId");
  for await (const part of fullStream) {
    const text = JSON.stringify(part, (key, value) => (forgotten.includes(key) ? undefined : value));
    reading.events.push(JSON.parse(text));
    if (part.type === "text-delta") reading.text += part.text;
    if (part.type === "tool-call") reading.tool(part.toolName, part.input);
    if (part.type === "error") error = part.error;
  }
  if (error) throw error;
};

const v1 = (base) => ({ baseURL: `${base}/v1` });

run({
  "chat compatible": way(v1, (sdk) => (settings) =>
    sdk.createOpenAICompatible({ ...settings, includeUsage: true })(model)),
  "chat create": way(v1, (sdk) => (settings) => sdk.createOpenAI(settings).chat(model)),
  "responses create": way(v1, (sdk) => (settings) => sdk.createOpenAI(settings).responses(model)),
  "messages create": way(v1, (sdk) => (settings) => sdk.createAnthropic(settings)(model)),
  "gemini create": way(
    (base) => ({ baseURL: `${base}/v1beta` }),
    (sdk) => (settings) => sdk.createGoogleGenerativeAI(settings)(model),
  ),
});
