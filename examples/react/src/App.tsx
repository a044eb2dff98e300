import { Topic } from "./Topic";
import { Training } from "./Training";

export function App() {
  return (
    <>
      <header>
        <h1>tower-sse in React</h1>
        <p>
          Two streams of the gateway’s demo, each read by <code>useEventSource</code>. Stop the gateway and start it
          again, open this page twice, walk away with it: the streams come back where they were.
        </p>
      </header>
      <main>
        <Topic />
        <Training />
      </main>
    </>
  );
}
