import { useState } from "react";

import { StreamFacts } from "./StreamFacts";
import { useEventSource } from "./useEventSource";

interface Epoch {
  readonly epoch: number;
  readonly epochs: number;
  readonly loss: number;
}

interface Run {
  readonly number: number;
  readonly pause: string;
  readonly epochs: readonly Epoch[];
  readonly done: boolean;
}

const PAUSES = [["100", "fast"], ["300", "as it is"], ["2000", "slow"]] as const;

/**
 * The progress of a run, which ends: `GET /training`. Who comes back with the id of its last event gets 204, and
 * the hook says `closed`. Another run or pace is another URL, so another stream.
 */
export function Training() {
  const [pause, setPause] = useState("300");
  const [run, setRun] = useState<Run | null>(null);
  const url = run && `/training?pause_ms=${run.pause}&run=${run.number}`;
  const stream = useEventSource(url, {
    on: {
      progress: (data) => {
        const epoch: Epoch = JSON.parse(data);
        setRun((run) => run && { ...run, epochs: [...run.epochs, epoch] });
      },
      done: () => setRun((run) => run && { ...run, done: true }),
    },
  });

  const start = (pause: string) => {
    setPause(pause);
    setRun((run) => ({ number: (run?.number ?? 0) + 1, pause, epochs: [], done: false }));
  };

  return (
    <section aria-labelledby="training-title">
      <div className="row head">
        <h2 id="training-title">Training</h2>
        <button type="button" onClick={() => start(pause)} data-testid="training-start">
          Start
        </button>
      </div>
      <div className="row">
        <label>
          Pace
          <select
            value={pause}
            onChange={({ target }) => (run === null ? setPause(target.value) : start(target.value))}
            data-testid="training-pause"
          >
            {PAUSES.map(([pause, name]) => <option key={pause} value={pause}>{name}</option>)}
          </select>
        </label>
        <button
          type="button"
          onClick={stream.over ? stream.reconnect : stream.close}
          disabled={run === null}
          data-testid="training-toggle"
        >
          {stream.over ? "Reconnect" : "Disconnect"}
        </button>
      </div>
      <StreamFacts name="training" stream={stream} />
      <Progress run={run} />
    </section>
  );
}

function Progress({ run }: { readonly run: Run | null }) {
  const epochs = run?.epochs ?? [];
  const last = epochs.at(-1);
  return (
    <>
      <p className="row">
        <progress max={last?.epochs ?? 1} value={last?.epoch ?? 0} aria-label="Progress of the run" />
        <span data-testid="training-epoch">
          {last === undefined ? "no epoch yet" : `${run?.done ? "done, " : ""}${last.epoch} of ${last.epochs}`}
        </span>
      </p>
      <Curve epochs={epochs} />
    </>
  );
}

function Curve({ epochs }: { readonly epochs: readonly Epoch[] }) {
  const last = epochs.at(-1);
  const highest = Math.max(1, ...epochs.map(({ loss }) => loss));
  const points = epochs.map(({ epoch, epochs, loss }) => `${(100 * epoch) / epochs},${98 - (96 * loss) / highest}`);
  return (
    <figure>
      <svg
        viewBox="0 0 100 100"
        preserveAspectRatio="none"
        role="img"
        aria-label={last ? `Loss, ${last.loss} after epoch ${last.epoch}` : "Loss, no value yet"}
      >
        <polyline points={points.join(" ")} data-testid="training-curve" />
      </svg>
      <figcaption>loss {last ? <b>{last.loss}</b> : "–"}</figcaption>
    </figure>
  );
}
