import type { StreamState } from "./useEventSource";

interface Props {
  /** The beginning of the `data-testid` of each value. */
  readonly name: string;
  readonly stream: StreamState;
}

/** What the hook knows of its stream. */
export function StreamFacts({ name, stream }: Props) {
  return (
    <>
      <dl className="facts">
        <div>
          <dt>status</dt>
          <dd data-testid={`${name}-status`} data-status={stream.status}>{stream.status}</dd>
        </div>
        <div>
          <dt>last id</dt>
          <dd data-testid={`${name}-last-id`}>{stream.lastId || "–"}</dd>
        </div>
        <div>
          <dt>reconnects</dt>
          <dd data-testid={`${name}-reconnects`}>{stream.reconnects}</dd>
        </div>
      </dl>
      <p className="note" role="status" data-testid={`${name}-note`}>{meaning(stream)}</p>
    </>
  );
}

function meaning({ status, over, answer }: StreamState): string {
  switch (status) {
    case "connecting":
      return "Connecting.";
    case "open":
      return "Connected.";
    case "waiting":
      return "The connection is gone. It comes back by itself.";
    case "refused":
      if (over) return `The server answers ${answer === 200 ? "with no event stream" : answer}, and it would again.`;
      return answer === 200
        ? "The server has no room now. We ask again."
        : `The server answers ${answer} for now. We ask again.`;
    case "closed":
      return answer === 204 ? "The stream is complete." : "Not connected.";
  }
}
