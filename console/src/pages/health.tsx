import { useEffect, useState } from "preact/hooks";
import { address, ApiError, get, send, type Schema } from "../api";
import { number } from "../format";
import { usePages } from "../hooks";
import { ActionButton, Failure, More, Page, Panel, State, Table, When } from "../parts/basics";
import { useAction } from "../hooks";
import { to } from "../route";

interface Probe {
  name: string;
  state: string;
  detail: string;
  took: number;
}

async function probe(name: string, path: "/healthz" | "/readyz"): Promise<Probe> {
  const since = performance.now();
  const told = (state: string, detail: string) => ({ name, state, detail, took: performance.now() - since });
  try {
    const answer = await get<Schema["Readiness"]>(address(path));
    const unknown = answer.unknown_keys?.map((key) => `${key.jobs} jobs need the key ${key.key_id}`) ?? [];
    return told(answer.status, unknown.join("; "));
  } catch (error) {
    const problem = error instanceof ApiError ? error.problem : {};
    const parts = problem.errors?.map((one) => `${one.field}: ${one.detail}`).join("; ");
    return told("unavailable", parts ?? (error as Error).message);
  }
}

export function Health() {
  const [probes, setProbes] = useState<Probe[]>([]);
  const [metrics, setMetrics] = useState<Family[]>([]);
  useEffect(() => {
    const look = async () => {
      setProbes(await Promise.all([probe("process", "/healthz"), probe("database and store", "/readyz")]));
      setMetrics(families(await (await send("GET", address("/metrics"))).text().catch(() => "")));
    };
    void look();
    const timer = setInterval(() => document.hidden || void look(), 5000);
    return () => clearInterval(timer);
  }, []);
  return (
    <Page title="Health">
      <div class="columns">
        {probes.map((probe) => (
          <Panel key={probe.name} title={probe.name}>
            <p>
              <State state={probe.state} /> <span class="quiet">{Math.round(probe.took)} ms</span>
            </p>
            {probe.detail && <p class="warning">{probe.detail}</p>}
          </Panel>
        ))}
      </div>
      <Webhooks />
      <Panel title="Counters of this process" aside={<a href="/metrics">/metrics</a>}>
        <Table<Family>
          label="Counters"
          items={metrics}
          id={(family) => family.name}
          empty="It has counted nothing yet."
          columns={[
            { name: "Metric", cell: (family) => <code title={family.help}>{family.name}</code> },
            { name: "", class: "wide", cell: (family) => <span class="quiet">{family.help}</span> },
            { name: "Sum", class: "number", cell: (family) => number(Math.round(family.sum * 1000) / 1000) },
          ]}
        />
      </Panel>
    </Page>
  );
}

interface Family {
  name: string;
  help: string;
  sum: number;
}

/** Counters and gauges of Prometheus's text, each summed over its labels. */
function families(text: string): Family[] {
  const found = new Map<string, Family>();
  const plain = new Set<string>();
  for (const line of text.split("\n")) {
    const [, kind, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (kind === "HELP") found.set(name, { name, help: rest, sum: 0 });
    if (kind === "TYPE" && (rest === "counter" || rest === "gauge")) plain.add(name);
    const [, sample = "", value = ""] = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)/.exec(line) ?? [];
    const family = found.get(sample);
    if (family) family.sum += Number(value) || 0;
  }
  return [...found.values()].filter((family) => plain.has(family.name));
}

function Webhooks() {
  type Delivery = Schema["Delivery"];
  const url = (before?: string) => address("/v1/webhooks", [], { before, limit: 20 });
  const list = usePages<Schema["DeliveryPage"], Delivery>(url(), (page) => page.webhooks, (page) => (page.next ? url(page.next) : null), 10_000);
  const action = useAction();
  const again = (delivery: Delivery) => async () => {
    await send("POST", address("/v1/webhooks/{id}/redeliver", [delivery.id]));
    list.reload();
  };
  return (
    <Panel title="Webhooks">
      <Failure error={list.error ?? action.error} />
      <Table<Delivery>
        label="Webhooks"
        items={list.items}
        id={(delivery) => delivery.id}
        empty={list.loading ? "Loading …" : "No job has one."}
        columns={[
          { name: "State", cell: (delivery) => <State state={delivery.state} title={delivery.last_error} /> },
          { name: "To", class: "wide", cell: (delivery) => delivery.url },
          { name: "Job", cell: (delivery) => <a class="mono" href={to(["jobs", delivery.job_id])}>{delivery.job_id.slice(0, 8)}</a> },
          { name: "Attempts", class: "number", cell: (delivery) => delivery.attempts },
          { name: "Came", cell: (delivery) => <When at={delivery.created_at} /> },
          { name: "", cell: (delivery) => ["delivered", "given_up"].includes(delivery.state) && <ActionButton action={action} class="small" work={again(delivery)}>Send again</ActionButton> },
        ]}
      />
      <More more={list.more} />
    </Panel>
  );
}
