// @google/genai, and @google/generative-ai before it.
const { ask, load, model, run } = require("./jobs.cjs");

// The older one has a second promise of the same answer, which nobody awaits.
process.on("unhandledRejection", () => {});

function chunk({ candidates, usageMetadata, modelVersion, error }, reading) {
  reading.events.push({ candidates, usageMetadata, modelVersion, error });
  for (const { text, functionCall } of candidates?.[0].content.parts ?? []) {
    reading.text += text ?? "";
    if (functionCall) reading.tool(functionCall.name, functionCall.args);
  }
}

run({
  async "gemini create"(baseUrl, reading) {
    const { GoogleGenAI } = await load("@google/genai");
    const google = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl } });
    const stream = await google.models.generateContentStream({ model, contents: ask });
    for await (const part of stream) chunk(part, reading);
  },
  async "gemini legacy"(baseUrl, reading) {
    const { GoogleGenerativeAI } = require("@google/generative-ai");
    const google = new GoogleGenerativeAI("none");
    const { stream } = await google.getGenerativeModel({ model }, { baseUrl }).generateContentStream(ask);
    for await (const part of stream) chunk(part, reading);
  },
});
