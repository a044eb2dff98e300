// The parts of the page, each for itself.

import "./answers.js";
import "./training.js";
import "./predictions.js";
import "./inspector.js";
import "./topic.js";
import "./gateway.js";
import { element } from "./figures.js";

element("curl").textContent = `# an answer in the shape of OpenAI's API, after 20 s of thinking
curl -N -d '{"stream":true,"delay_ms":20000}' ${location.origin}/v1/chat/completions

# an answer with ids; the second line, with an id of the first, goes on where that one stopped
curl -N -H 'Accept: text/event-stream' ${location.origin}/v1/completions
curl -N -H 'Last-Event-ID: ts_….5' ${location.origin}/v1/completions

# a training run, and what a client gets that has seen its end
curl -N ${location.origin}/training
curl -i -H 'Last-Event-ID: 41' ${location.origin}/training

# predictions as they come, and a stream with all that the grammar allows
curl -N ${location.origin}/predictions
curl -sN ${location.origin}/odd | od -c

# a topic: all events so far, then live; the second line goes on after event 2
curl -N ${location.origin}/sse
curl -N -H 'Last-Event-ID: 2' ${location.origin}/sse
curl -d data=hello ${location.origin}/sse

# the gateway: its metrics, and a drain as after SIGTERM
curl ${location.origin}/gateway/metrics
curl --json '{}' ${location.origin}/gateway/drain

# over HTTP/2
curl -N --http2-prior-knowledge ${location.origin}/sse`;
