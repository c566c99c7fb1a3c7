import { useEffect, useState } from "preact/hooks";
import { address, get, send, type Schema } from "../api";
import { bytes, number, percent, seconds, time } from "../format";
import { useAction, useData } from "../hooks";
import { ActionButton, Facts, Failure, Field, FormButton, Page, Panel, State, Version, When } from "../parts/basics";
import { Course, Intervals, type Estimate } from "../parts/plots";
import { go, to, type Route } from "../route";
import { filled } from "./jobs";
import { scope } from "./rollouts";

type RolloutData = Schema["Rollout"];
type Report = Schema["Report"];
type Measure = Schema["Measure"];
type Tries = Schema["Tries"];
type Comparison = Report["measures"][number];

const MEASURES: Record<Measure, { name: string; format: (value: number) => string }> = {
  pull_seconds: { name: "Time of a pull", format: seconds },
  build_seconds: { name: "Time of a build", format: seconds },
  archive_bytes: { name: "Size of the archive", format: bytes },
  wire_bytes: { name: "Bytes on the wire of a start", format: bytes },
  range_gets: { name: "Range requests of a start", format: number },
  cache_hits: { name: "Cache hits of a start", format: number },
  cold_start_seconds: { name: "Cold start", format: seconds },
  warm_start_seconds: { name: "Warm start", format: seconds },
  first_exec_ms: { name: "First read of a file", format: (value) => seconds(value / 1000) },
};
const DAYS = 14;

/** What is told of a measure that this page doesn't know. */
function told(measure: string) {
  return MEASURES[measure as Measure] ?? { name: measure.replaceAll("_", " "), format: (value: number) => value.toPrecision(3) };
}

export function Rollout(props: { name: string; route: Route }) {
  const { name } = props;
  const rollout = useData<RolloutData>(address("/v1/rollouts/{name}", [name]), 5000);
  const report = useData<Report>(address("/v1/rollouts/{name}/report", [name]), 15_000);
  const action = useAction();
  const change = (body: object) => async () => {
    await send("PATCH", address("/v1/rollouts/{name}", [name]), body);
    rollout.reload();
    report.reload();
  };
  const above = <a href={to(["rollouts"])}>Rollouts</a>;
  if (!rollout.data) return <Page title={name} above={above}>{rollout.error ? <Failure error={rollout.error} /> : <p class="empty">Loading …</p>}</Page>;
  const { data } = rollout;
  const remove = async () => {
    await send("DELETE", address("/v1/rollouts/{name}", [name]));
    go(["rollouts"]);
  };
  return (
    <Page
      title={name}
      above={above}
      actions={
        <>
          {data.state === "active" ? (
            <ActionButton action={action} work={change({ state: "paused" })}>Pause</ActionButton>
          ) : (
            <ActionButton action={action} work={change({ state: "active" })}>Resume</ActionButton>
          )}
          {data.state !== "rolled_back" && (
            <FormButton label="Roll back" title={`Roll ${name} back?`} danger class="danger" submit={(form) => change({ state: "rolled_back", ...filled(form) })()}>
              <p>All that it matches gets v1, from the next attempt on.</p>
              <Field label="Reason">
                <input name="reason" />
              </Field>
            </FormButton>
          )}
          <FormButton label="Delete" title={`Delete ${name}?`} danger submit={remove}>
            <p>What was counted goes with it.</p>
          </FormButton>
        </>
      }
    >
      <Failure error={action.error} />
      <div class="columns">
        <Panel title="Rule">
          <Facts
            facts={[
              ["State", <><State state={data.state} />{data.reason && <span class="quiet"> {data.reason}</span>}</>],
              ["Of", scope(data)],
              ["Chosen by", data.sticky],
              ["Guard", data.guard ? `rolls back, wrongly in ${percent(data.guard)} of cases` : "none"],
              ["Made", time(data.created_at)],
              ["Changed", <When at={data.updated_at} />],
            ]}
          />
          <Ramp key={data.percent} percent={data.percent} ramp={(percent) => void action.run(change({ percent }))} busy={action.busy} />
        </Panel>
        <Panel title="Verdict">
          {report.data ? <Verdict report={report.data} /> : report.error ? <Failure error={report.error} /> : <p class="empty">Loading …</p>}
        </Panel>
      </div>
      {report.data && <Outcomes report={report.data} />}
      {report.data && <Measures report={report.data} />}
      {report.data && <Days name={name} since={data.created_at} measures={report.data.measures} />}
    </Page>
  );
}

function Ramp(props: { percent: number; ramp: (percent: number) => void; busy: boolean }) {
  const [percent, setPercent] = useState(props.percent);
  return (
    <form
      class="ramp"
      onSubmit={(event) => {
        event.preventDefault();
        props.ramp(percent);
      }}
    >
      <label class="field">
        <span>Share that gets v2: <b>{percent} %</b></span>
        <input type="range" min="0" max="100" value={percent} onInput={(event) => setPercent(event.currentTarget.valueAsNumber)} />
      </label>
      <button class="primary" disabled={props.busy || percent === props.percent}>Ramp</button>
    </form>
  );
}

function Verdict(props: { report: Report }) {
  const { report } = props;
  return (
    <>
      <ul class="verdict">{report.verdict.map((sentence) => <li key={sentence}>{sentence}</li>)}</ul>
      {report.guard.map((guard) => (
        <p key={guard.stage} class="quiet">
          Guard over {guard.stage}: v1 {guard.v1.failed} of {guard.v1.images} images failed, v2 {guard.v2.failed} of {guard.v2.images};
          evidence {guard.evidence.toPrecision(3)}{guard.threshold ? `, rolls back at ${guard.threshold.toPrecision(3)}` : ""}.
        </p>
      ))}
    </>
  );
}

function Outcomes(props: { report: Report }) {
  const { jobs, starts } = props.report;
  return (
    <div class="columns">
      {([["Jobs", jobs], ["Starts", starts]] as const).map(([name, outcomes]) => (
        <Panel key={name} title={name}>
          <div class="scroll">
            <table class="versus">
              <thead>
                <tr>
                  <th scope="col" />
                  <th scope="col" class="number"><Version version={1} /></th>
                  <th scope="col" class="number"><Version version={2} /></th>
                </tr>
              </thead>
              <tbody>
                {(["count", "succeeded", "failed", "fell_back", "refused", "cancelled"] as const).map((row) => (
                  <tr key={row}>
                    <th scope="row">{row.replaceAll("_", " ")}</th>
                    {[outcomes.v1, outcomes.v2].map((tries: Tries, at) => <td key={at} class="number">{number(tries[row])}</td>)}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          <Intervals
            label={`Rates of ${name.toLowerCase()} with their 95 % intervals`}
            groups={["failures", "fallbacks"]}
            v1={[outcomes.v1.failure_rate, outcomes.v1.fallback_rate]}
            v2={[outcomes.v2.failure_rate, outcomes.v2.fallback_rate]}
            format={percent}
            height={170}
          />
          <p class="quiet">
            {outcomes.more_failures
              ? `v2 fails more often by ${range(outcomes.more_failures, percent)}.`
              : "Too few to tell a difference."}
          </p>
        </Panel>
      ))}
    </div>
  );
}

function range(estimate: Estimate, format: (value: number) => string): string {
  const { value, low, high } = estimate;
  return low == null || high == null ? format(value) : `${format(value)} (${format(low)} to ${format(high)})`;
}

function Measures(props: { report: Report }) {
  const measured = props.report.measures.filter((one) => one.v1.count || one.v2.count);
  if (!measured.length) return <Panel title="Measures"><p class="empty">Nothing was measured yet.</p></Panel>;
  return (
    <Panel title="Measures" aside={<Legend />}>
      <div class="tiles">
        {measured.map((one) => {
          const { name, format } = told(one.measure);
          return (
            <figure key={one.measure}>
              <figcaption>
                {name} <small class="quiet">{number(one.v1.count)} and {number(one.v2.count)}</small>
              </figcaption>
              <Intervals label={`${name}: median and 95th percentile with 95 % intervals`} groups={["median", "p95"]} v1={[one.v1.median, one.v1.p95]} v2={[one.v2.median, one.v2.p95]} format={format} />
              <p class="quiet">{one.ratio.median ? `v1 by v2: ${range(one.ratio.median, (value) => value.toPrecision(3))}` : "Too few for an interval."}</p>
            </figure>
          );
        })}
      </div>
    </Panel>
  );
}

function Legend() {
  return (
    <span class="legend">
      <Version version={1} /> <Version version={2} /> <span class="quiet">whiskers: 95 %</span>
    </span>
  );
}

/** The day in UTC, as reports count them. */
function day(at: number): string {
  return new Date(at).toISOString().slice(0, 10);
}

/** A measure day by day, from one report of each day. */
function Days(props: { name: string; since: string; measures: Comparison[] }) {
  const [measure, setMeasure] = useState<string>("pull_seconds");
  const [reports, setReports] = useState<{ day: string; report: Report }[]>();
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const stop = new AbortController();
    const days = Array.from({ length: DAYS }, (_, back) => day(Date.now() - (DAYS - 1 - back) * 86_400_000)).filter((one) => one >= day(Date.parse(props.since)));
    Promise.all(
      days.map(async (day) => {
        const url = address("/v1/rollouts/{name}/report", [props.name], { since: day, until: day });
        return { day, report: await get<Report>(url, { signal: stop.signal }) };
      }),
    ).then(setReports, (error: Error) => stop.signal.aborted || setError(error));
    return () => stop.abort();
  }, [props.name, props.since]);
  const of = (version: "v1" | "v2") => reports?.map(({ report }) => report.measures.find((one) => one.measure === measure)?.[version].median) ?? [];
  const { name, format } = told(measure);
  return (
    <Panel
      title="Day by day"
      aside={
        <select aria-label="Measure" value={measure} onChange={(event) => setMeasure(event.currentTarget.value)}>
          {props.measures.map((one) => <option key={one.measure} value={one.measure}>{told(one.measure).name}</option>)}
        </select>
      }
    >
      <Failure error={error} />
      {reports && <Course label={`${name}, median of each day with its 95 % interval`} days={reports.map(({ day }) => day)} v1={of("v1")} v2={of("v2")} format={format} />}
    </Panel>
  );
}
