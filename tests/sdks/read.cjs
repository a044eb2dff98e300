// Reads many streams with the official SDKs for JavaScript: the same as `read.py`, with the name of
// the package in a job's `sdk`.
const fs = require("node:fs");

const AT_ONCE = 24;
const model = "any";
const messages = [{ role: "user", content: "Hello?" }];

const ways = {
  async chat_create(client, answer) {
    const ask = { model, messages, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create(ask)) {
      answer.events += 1;
      for (const choice of chunk.choices) {
        answer.text += choice.delta.content ?? "";
        answer.finish = choice.finish_reason ?? answer.finish;
      }
    }
  },
  async chat_helper(client, answer) {
    const stream = client.chat.completions.stream({ model, messages });
    for await (const _ of stream) answer.events += 1;
    const { choices: [choice] } = await stream.finalChatCompletion();
    answer.text = choice.message.content;
    answer.finish = choice.finish_reason;
  },
  async responses_create(client, answer) {
    const ask = { model, input: "Hello?", stream: true };
    for await (const event of await client.responses.create(ask)) {
      answer.events += 1;
      if (event.type === "response.output_text.delta") answer.text += event.delta;
      if (event.type === "response.completed") answer.finish = event.response.status;
    }
  },
  async responses_helper(client, answer) {
    const stream = client.responses.stream({ model, input: "Hello?" });
    for await (const _ of stream) answer.events += 1;
    const whole = await stream.finalResponse();
    answer.text = whole.output_text;
    answer.finish = whole.status;
  },
  async messages_create(client, answer) {
    const ask = { model, max_tokens: 64, messages, stream: true };
    for await (const event of await client.messages.create(ask)) {
      answer.events += 1;
      if (event.type === "content_block_delta") answer.text += event.delta.text;
      if (event.type === "message_delta") answer.finish = event.delta.stop_reason;
    }
  },
  async messages_helper(client, answer) {
    const stream = client.messages.stream({ model, max_tokens: 64, messages });
    for await (const _ of stream) answer.events += 1;
    const whole = await stream.finalMessage();
    answer.text = whole.content.map((block) => block.text).join("");
    answer.finish = whole.stop_reason;
  },
};

function client(job) {
  // They log what they throw.
  const options = { apiKey: "none", maxRetries: 0, logLevel: "off" };
  const sdk = require(job.sdk);
  return job.protocol === "messages"
    ? new sdk.Anthropic({ ...options, baseURL: job.base })
    : new sdk.OpenAI({ ...options, baseURL: `${job.base}/v1` });
}

async function read(job) {
  const answer = { id: job.id, text: "", finish: null, events: 0, error: null };
  try {
    await ways[`${job.protocol}_${job.way}`](client(job), answer);
  } catch (error) {
    const { APIError, OpenAIError, AnthropicError } = require(job.sdk);
    const own = error instanceof (OpenAIError ?? AnthropicError);
    answer.error = `${own ? `${job.sdk}.` : ""}${error.constructor.name}`;
    answer.message = String(error.message);
    answer.typed = error instanceof APIError;
    answer.said = error.error ?? null;
  }
  console.log(JSON.stringify(answer));
}

const jobs = fs.readFileSync(process.argv[2], "utf8").trim().split("\n").map((line) => JSON.parse(line));
const worker = async () => {
  for (let job; (job = jobs.shift()); ) await read(job);
};
Promise.all(Array.from({ length: AT_ONCE }, worker));
