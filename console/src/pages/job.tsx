import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { address, follow, followLog, isFinal, send, type Job as JobData, type JobEvent, type LogEntry } from "../api";
import { bytes, number, reference, seconds, time } from "../format";
import { useAction, useData } from "../hooks";
import { ActionButton, Bar, Code, Facts, Failure, Page, Panel, State, Version, When } from "../parts/basics";
import { Timeline } from "../parts/timeline";
import { go, to } from "../route";
import { jobTitle } from "./jobs";

export function Job(props: { id: string }) {
  const { id } = props;
  const job = useData<JobData>(address("/v1/jobs/{id}", [id]));
  const { events, error } = useEvents(id, job.reload);
  const now = useNow(!job.data || !isFinal(job.data.state));
  const action = useAction();
  if (!job.data) return <Page title="Job" above={<a href={to(["jobs"])}>Jobs</a>}>{job.error ? <Failure error={job.error} /> : <p class="empty">Loading …</p>}</Page>;
  const { data } = job;
  const final = isFinal(data.state);
  const cancel = async () => {
    await send("POST", address("/v1/jobs/{id}/cancel", [id]));
    job.reload();
  };
  const retry = async () => {
    const again = (await (await send("POST", address("/v1/jobs/{id}/retry", [id]), {})).json()) as JobData;
    go(["jobs", again.id]);
  };
  return (
    <Page
      title={jobTitle(data)}
      above={<a href={to(["jobs"])}>Jobs</a>}
      actions={
        <>
          {final ? (
            <ActionButton action={action} work={retry}>Do it once more</ActionButton>
          ) : (
            <ActionButton action={action} work={cancel} class="danger">Cancel</ActionButton>
          )}
        </>
      }
    >
      <Failure error={action.error} />
      <div class="columns">
        <Panel title="What was asked for">
          <Facts
            facts={[
              ["State", <><State state={data.state} />{data.reason && <span class="quiet"> {data.reason.replaceAll("_", " ")}</span>}</>],
              ["Image", <a class="mono" href={to(["images", data.spec.image_id])}>{data.spec.image_id}</a>],
              ["Source", "source" in data.spec && data.spec.source],
              ["Platform", "platform" in data.spec && data.spec.platform],
              ["Workspace", data.workspace],
              ["Came", <When at={data.created_at} />],
              ["Attempts", `${data.attempt} of ${data.max_attempts}${data.losses ? `, ${data.losses} lost` : ""}`],
              ["Job", <span class="mono">{data.id}</span>],
              ["Request", data.request_id && <span class="mono">{data.request_id}</span>],
            ]}
          />
        </Panel>
        <Panel title="What came of it">
          {data.error && !data.result && (
            <div class="failure">
              <p>{data.error.message}</p>
              <p class="quiet">
                <Code code={data.error.code} /> · {{ user: "the request's", upstream: "a dependency's", ours: "the service's" }[data.error.fault] ?? data.error.fault} fault
                {data.error.transient && " · another attempt may help"}
              </p>
            </div>
          )}
          {data.result ? <Result job={data} /> : !data.error && <Progress events={events} />}
        </Panel>
      </div>
      <Panel title="Phases">
        <Timeline events={events} now={now} />
      </Panel>
      <Failure error={error} />
      {data.spec.kind === "build" && <BuildLog id={id} live={!final} />}
      <Log events={events} live={!final} />
    </Page>
  );
}

/** The events so far; `changed` is called when the job has another state. */
function useEvents(id: string, changed: () => void): { events: JobEvent[]; error?: Error } {
  const { items, error } = useStream(id, follow, (more) => {
    if (more.some((event) => event.event !== "progress" && event.event !== "warning")) changed();
  });
  return { events: items, ...(error && { error }) };
}

/** What a stream has given so far. What comes at once is shown at once: a long history is one change of the page. */
function useStream<T>(id: string, stream: (id: string, signal: AbortSignal) => AsyncGenerator<T>, came?: (more: T[]) => void): { items: T[]; error?: Error } {
  const [state, setState] = useState<{ id: string; items: T[]; error?: Error }>({ id, items: [] });
  useEffect(() => {
    const stop = new AbortController();
    let coming: T[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const show = () => {
      timer = undefined;
      const more = coming;
      coming = [];
      setState((before) => ({ id, items: before.id === id ? [...before.items, ...more] : more }));
      came?.(more);
    };
    setState({ id, items: [] });
    (async () => {
      try {
        for await (const item of stream(id, stop.signal)) {
          coming.push(item);
          timer ??= setTimeout(show, 30);
        }
      } catch (error) {
        setState((before) => ({ ...before, error: error as Error }));
      }
    })();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [id]);
  return state.id === id ? state : { items: [] };
}

function useNow(runs: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!runs) return;
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, [runs]);
  return now;
}

function Progress(props: { events: JobEvent[] }) {
  const last = props.events.findLast((event) => event.event === "progress");
  if (last?.event !== "progress") return <p class="empty">Nothing yet.</p>;
  const { bytes_done, bytes_total, layers_done, layers_total } = last.data;
  const told = `${bytes(bytes_done)} of ${bytes(bytes_total)}`;
  return (
    <>
      <Bar share={bytes_total ? bytes_done / bytes_total : 0} label={told} class="large" />
      <p>{layers_done} of {layers_total} layers, {told}</p>
    </>
  );
}

function Result(props: { job: JobData }) {
  const { result } = props.job;
  if (!result) return null;
  const { version, migration } = result;
  return (
    <>
      <Facts
        facts={[
          ["Version", <><Version version={result.clip_version} />{version?.decided_by && <span class="quiet"> decided by {version.decided_by}{version.rollout && ` ${version.rollout}`}</span>}</>],
          ["Instead of v2", version?.code && <><Code code={version.code} /> <span class="quiet">{version.reason}</span></>],
          ["Archive", `${bytes(result.archive.size)} as ${result.archive.key}`],
          ["Image", `${bytes(result.compressed_bytes)} compressed, ${bytes(result.plain_bytes)} plain`],
          ["Files", number(result.files)],
          ["Layers", `${result.layers.length}${result.layers.some((layer) => layer.cached) ? `, ${result.layers.filter((layer) => layer.cached).length} known` : ""}`],
          ["Took", seconds(result.seconds)],
          ["Reference", <span class="break">{result.reference}</span>],
          ["Migrated", migration && `from v${migration.from} to v${migration.to}${migration.kept ? `, the old one kept as ${migration.kept}` : ""}`],
        ]}
      />
      {result.warnings.map((warning) => <p key={warning} class="warning">{warning}</p>)}
    </>
  );
}

/** A list that grows at its end, and stays there if it is told to. */
function Tail(props: { title: string; live: boolean; length: number; children: ComponentChildren }) {
  const list = useRef<HTMLOListElement>(null);
  const [tail, setTail] = useState(true);
  useEffect(() => {
    if (tail && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [props.length, tail]);
  return (
    <Panel
      title={props.title}
      aside={
        <label class="check">
          <input type="checkbox" checked={tail} onChange={(event) => setTail(event.currentTarget.checked)} /> stay at the end
          {props.live && <span class="live">live</span>}
        </label>
      }
    >
      <ol class="log" ref={list} tabIndex={0} aria-label={props.title} aria-live={props.live ? "polite" : "off"}>
        {props.children}
      </ol>
    </Panel>
  );
}

function Log(props: { events: JobEvent[]; live: boolean }) {
  return (
    <Tail title="Events" live={props.live} length={props.events.length}>
      {props.events.map((event) => (
        <li key={event.seq} class={event.event}>
          <Clock at={event.at} />
          <b>{event.event.replaceAll("_", " ")}</b>
          <span>{told(event)}</span>
        </li>
      ))}
    </Tail>
  );
}

/** What the programs of a build say, with the line of the Dockerfile that runs them. */
function BuildLog(props: { id: string; live: boolean }) {
  const { items, error } = useStream<LogEntry>(props.id, followLog);
  return (
    <>
      <Failure error={error} />
      <Tail title="Log" live={props.live} length={items.length}>
        {items.map((entry) => (
          <li key={entry.next} class={entry.stream}>
            <Clock at={entry.at} />
            <b>{entry.step ? `line ${entry.step.line}` : ""}</b>
            <span>{entry.text}</span>
          </li>
        ))}
      </Tail>
    </>
  );
}

function Clock(props: { at: string }) {
  return <time dateTime={props.at} title={time(props.at)}>{new Date(props.at).toLocaleTimeString("en-GB")}</time>;
}

/** What an event says; those that a later service tells of are shown as they are. */
function told(event: JobEvent): string {
  switch (event.event) {
    case "queued": case "cancel_requested": case "cancelled": case "expired":
      return "";
    case "started":
      return `attempt ${event.attempt} by ${event.data.worker}`;
    case "phase":
      return event.data.name;
    case "resolved":
      return `${event.data.manifest_digest}: ${event.data.layers} layers, ${bytes(event.data.compressed_bytes)}`;
    case "progress":
      return `${event.data.layers_done} of ${event.data.layers_total} layers, ${bytes(event.data.bytes_done)} of ${bytes(event.data.bytes_total)}`;
    case "warning":
      return event.data.message;
    case "fell_back":
      return event.data.reason ?? "v1 is made instead of v2";
    case "republished":
      return `${reference(event.data.reference)}: ${event.data.layers} layers`;
    case "retrying": case "failed":
      return event.data.error.message;
    case "succeeded":
      return `${event.data.result.archive.key}, ${bytes(event.data.result.archive.size)}`;
    default: {
      const { data } = event as { data?: Record<string, unknown> };
      const text = data?.message ?? data?.text ?? data?.line;
      return typeof text === "string" ? text : data ? JSON.stringify(data) : "";
    }
  }
}
