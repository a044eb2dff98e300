import { type FormEvent, useState } from "react";

import { StreamFacts } from "./StreamFacts";
import { useEventSource } from "./useEventSource";

interface Line {
  /** Ours: a platform that lost its history gives its ids again. */
  readonly key: number;
  readonly id: string;
  readonly data: string;
}

const NEWEST = 100;

/** A feed that everybody reads and everybody may write to: `GET /sse` and `POST /sse`. */
export function Topic() {
  const [joined, setJoined] = useState(true);
  return (
    <section aria-labelledby="topic-title">
      <div className="row head">
        <h2 id="topic-title">Topic</h2>
        <button type="button" data-testid="topic-toggle" onClick={() => setJoined(!joined)}>
          {joined ? "Leave" : "Join"}
        </button>
      </div>
      <Publish />
      {joined ? <Feed /> : <p className="note">Unmounted. Who joins again reads from the start.</p>}
    </section>
  );
}

function Feed() {
  const [lines, setLines] = useState<readonly Line[]>([]);
  const stream = useEventSource("/sse", {
    on: {
      message: (data, { lastEventId }) => setLines((lines) => append(lines, lastEventId, data)),
    },
    // nothing is lost, since the platform keeps what comes meanwhile
    whenHidden: "leave",
  });
  return (
    <>
      <StreamFacts name="topic" stream={stream} />
      <div className="log" role="log" aria-label="Events" tabIndex={0} data-testid="topic-log">
        <ol>{lines.map(({ key, id, data }) => <li key={key}><b>{id}</b> <span>{data}</span></li>)}</ol>
      </div>
    </>
  );
}

function append(lines: readonly Line[], id: string, data: string): readonly Line[] {
  const key = (lines.at(-1)?.key ?? 0) + 1;
  return [...lines, { key, id, data }].slice(-NEWEST);
}

function Publish() {
  const [data, setData] = useState("");
  const [result, setResult] = useState("");

  const publish = async (event: FormEvent) => {
    event.preventDefault();
    const answer = await fetch("/sse", { method: "POST", body: new URLSearchParams({ data }) }).catch(() => null);
    if (answer?.ok) setData("");
    setResult(answer?.ok ? await answer.text() : "That did not arrive. Is the gateway there?");
  };

  return (
    <form onSubmit={publish}>
      <label>
        Message
        <input
          value={data}
          onChange={(event) => setData(event.target.value)}
          required
          maxLength={4000}
          placeholder="Goes to every reader."
          data-testid="topic-data"
        />
      </label>
      <button data-testid="topic-publish">Publish</button>
      <output data-testid="topic-result">{result}</output>
    </form>
  );
}
