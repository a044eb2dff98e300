// @langchain/openai.
process.env.LANGSMITH_TRACING = "false";
const { ask, model, run } = require("./jobs.cjs");
const { ChatOpenAI } = require("@langchain/openai");

const way = (useResponsesApi) => async (base, reading) => {
  const configuration = { baseURL: `${base}/v1` };
  const chat = new ChatOpenAI({ model, apiKey: "none", maxRetries: 0, configuration, useResponsesApi });
  let whole;
  for await (const chunk of await chat.stream(ask)) {
    const { content, tool_call_chunks, usage_metadata, response_metadata, additional_kwargs } = chunk;
    reading.events.push({ content, tool_call_chunks, usage_metadata, response_metadata, additional_kwargs });
    whole = whole ? whole.concat(chunk) : chunk;
  }
  reading.text = whole.text;
  for (const { name, args } of whole.tool_calls) reading.tool(name, args);
};

run({ "chat create": way(false), "responses create": way(true) });
