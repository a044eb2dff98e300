import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const gateway = process.env.GATEWAY ?? "http://127.0.0.1:8080";

// Vite's proxy keeps the head of an answer until the body begins, and its side of a stream open when the other is
// cut: the page would be `connecting` up to the first event, and `open` for ever.
const eventStreams = (proxy) =>
  proxy.on("proxyRes", (answer, _, response) => {
    // behind the headers, which are set in this turn
    queueMicrotask(() => response.flushHeaders());
    answer.on("close", () => answer.complete || response.destroy());
  });

const toGateway = { target: gateway, configure: eventStreams };

// The page and its streams have one origin, so no CORS is wanted. `vite preview` takes the same.
export default defineConfig({
  plugins: [react()],
  // the first that know light-dark(): what stands in for it elsewhere does not heed color-scheme
  build: { cssTarget: ["chrome123", "firefox120", "safari17.5"] },
  server: {
    host: "127.0.0.1",
    proxy: { "/sse": toGateway, "/training": toGateway },
  },
});
