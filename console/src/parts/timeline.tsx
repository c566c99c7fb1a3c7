// The phases of a job as bars on one axis of time, attempt by attempt.
import type { JobEvent } from "../api";
import { isFinal } from "../api";
import { seconds } from "../format";

interface Phase {
  name: string;
  tone: string;
  attempt: number;
  from: number;
  to: number;
}

/** The service's phases, in words. One that a later service has is shown by its name. */
const PHASES: Record<string, [name: string, tone: string]> = {
  context: ["fetching the context", "look"],
  build: ["building", "read"],
  export: ["pushing the layers", "make"],
  tag: ["tagging the image", "make"],
  resolve: ["looking the image up", "look"],
  index: ["reading layers", "read"],
  pack: ["packing the files", "read"],
  republish: ["publishing the layers anew", "make"],
  compare: ["comparing", "read"],
  convert: ["converting", "read"],
  write: ["writing the archive", "make"],
  publish: ["publishing the archive", "make"],
};

/** What follows from the events: from one that begins a phase to the next one that does. */
export function phases(events: JobEvent[], now: number): Phase[] {
  const found: Phase[] = [];
  let current: Phase | undefined;
  const begin = (name: string, tone: string, event: JobEvent) => {
    const at = Date.parse(event.at);
    if (current) current.to = at;
    current = { name, tone, attempt: event.attempt, from: at, to: at };
    found.push(current);
  };
  for (const event of events) {
    switch (event.event) {
      case "queued":
        begin("waiting", "wait", event);
        break;
      case "started":
        begin("starting", "look", event);
        break;
      case "phase": {
        const [name, tone] = PHASES[event.data.name] ?? [event.data.name, "make"];
        begin(name, tone, event);
        break;
      }
      case "retrying":
        begin("waiting for another attempt", "wait", event);
        break;
      default:
        if (isFinal(event.event) && current) {
          current.to = Date.parse(event.at);
          return found;
        }
    }
  }
  if (current) current.to = Math.max(current.from, now);
  return found;
}

export function Timeline(props: { events: JobEvent[]; now: number }) {
  const all = phases(props.events, props.now);
  const first = all[0];
  const last = all.at(-1);
  if (!first || !last) return <p class="empty">Nothing has happened yet.</p>;
  const whole = Math.max(1, last.to - first.from);
  const share = (time: number) => `${((time - first.from) / whole) * 100}%`;
  return (
    <ol class="timeline">
      {all.map((phase) => (
        <li key={`${phase.from} ${phase.name}`}>
          <span class="name">
            {phase.name}
            {phase.attempt > 1 && <small> attempt {phase.attempt}</small>}
          </span>
          <span class="track" aria-hidden="true">
            <span
              class={`phase ${phase.tone}`}
              style={{ left: share(phase.from), width: `max(2px, ${((phase.to - phase.from) / whole) * 100}%)` }}
            />
          </span>
          <span class="time">{seconds((phase.to - phase.from) / 1000)}</span>
        </li>
      ))}
      <li class="total">
        <span class="name">all</span>
        <span class="track" />
        <span class="time">{seconds(whole / 1000)}</span>
      </li>
    </ol>
  );
}
