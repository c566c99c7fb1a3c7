import { address, send, type Schema } from "../api";
import { useData } from "../hooks";
import { Bar, Failure, Field, FormButton, Page, Panel, State, Table, When } from "../parts/basics";
import { go, to } from "../route";
import { filled } from "./jobs";

type Rollout = Schema["Rollout"];

export function Rollouts() {
  const list = useData<Schema["RolloutList"]>(address("/v1/rollouts"), 5000);
  return (
    <Page title="Rollouts" actions={<NewRollout />}>
      <Failure error={list.error} />
      <Panel>
        <Table<Rollout>
          label="Rollouts"
          items={list.data?.rollouts ?? []}
          id={(rollout) => rollout.name}
          empty={list.data || list.error ? "There are none: every pull gets the version that its workspace or the settings say." : "Loading …"}
          columns={[
            { name: "Rollout", cell: (rollout) => <a href={to(["rollouts", rollout.name])}>{rollout.name}</a> },
            { name: "State", cell: (rollout) => <State state={rollout.state} title={rollout.reason} /> },
            { name: "To v2", class: "wide", cell: (rollout) => <Bar share={rollout.percent / 100} label={`${rollout.percent} %`} /> },
            { name: "", class: "number", cell: (rollout) => `${rollout.percent} %` },
            { name: "Of", cell: (rollout) => scope(rollout) },
            { name: "Changed", cell: (rollout) => <When at={rollout.updated_at} /> },
          ]}
        />
      </Panel>
    </Page>
  );
}

/** What a rollout matches. */
export function scope(rollout: Rollout): string {
  const parts = [rollout.workspaces?.join(", "), rollout.sources?.join(", "), rollout.kinds?.join(", ")].filter(Boolean);
  return parts.length ? parts.join(" · ") : "all pulls";
}

function words(text: string | undefined): string[] | undefined {
  return text?.split(/[\s,]+/).filter(Boolean);
}

function NewRollout() {
  const submit = async (form: FormData) => {
    const { name, percent, workspaces, sources } = filled(form);
    const body = { name, percent: Number(percent), workspaces: words(workspaces), sources: words(sources), sticky: form.get("sticky") };
    await send("POST", address("/v1/rollouts"), body);
    go(["rollouts", name ?? ""]);
  };
  return (
    <FormButton label="New rollout" class="primary" submit={submit} submitLabel="Create">
      <Field label="Name">
        <input name="name" required pattern="[a-z0-9][a-z0-9_\-]*" />
      </Field>
      <Field label="Share that gets v2, in percent">
        <input name="percent" type="number" min="0" max="100" step="any" required defaultValue="10" />
      </Field>
      <Field label="Workspaces" hint="Names with spaces between them; all when empty">
        <input name="workspaces" />
      </Field>
      <Field label="Sources" hint="Such as registry.example/team-a/*; all when empty">
        <input name="sources" />
      </Field>
      <Field label="Chosen by">
        <select name="sticky">
          <option value="image">image</option>
          <option value="workspace">workspace</option>
        </select>
      </Field>
    </FormButton>
  );
}
