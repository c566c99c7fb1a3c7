// Workspaces, tokens, and the record of who changed what.
import { useState } from "preact/hooks";
import { address, send, session, type Schema } from "../api";
import { time } from "../format";
import { useAction, usePages } from "../hooks";
import { ActionButton, Failure, Field, FormButton, More, Page, Panel, State, Table, Version, When } from "../parts/basics";
import { filled } from "./jobs";

type Workspace = Schema["Workspace"];
type Token = Schema["Token"];
type AuditEvent = Schema["AuditEvent"];

export function Workspaces(props: { switched: () => void }) {
  const url = (after?: string) => address("/v1/workspaces", [], { after, limit: 100 });
  const list = usePages<Schema["WorkspacePage"], Workspace>(url(), (page) => page.workspaces, (page) => (page.next ? url(page.next) : null));
  const create = async (form: FormData) => {
    const { id, ...rest } = filled(form);
    await send("POST", address("/v1/workspaces"), { id, ...settings(rest) });
    list.reload();
  };
  const change = (id: string) => async (form: FormData) => {
    const empty = { clip_version: null, fallback: null, max_running: null, max_queued: null, allowed_registries: null };
    await send("PATCH", address("/v1/workspaces/{id}", [id]), { ...empty, ...settings(filled(form)) });
    list.reload();
  };
  const use = (id: string) => {
    session.workspace = id;
    props.switched();
  };
  return (
    <Page
      title="Workspaces"
      actions={
        <FormButton label="New workspace" class="primary" submit={create} submitLabel="Create">
          <Field label="Name">
            <input name="id" required pattern="[a-z0-9][a-z0-9_\-]{0,63}" />
          </Field>
          <Settings />
        </FormButton>
      }
    >
      <Failure error={list.error} />
      <Panel>
        <Table<Workspace>
          label="Workspaces"
          items={list.items}
          id={(one) => one.id}
          empty={list.loading ? "Loading …" : "There are none."}
          columns={[
            { name: "Workspace", cell: (one) => <b>{one.id}</b> },
            { name: "Version", cell: (one) => <Version version={one.clip_version} /> },
            { name: "Fallback", cell: (one) => one.fallback ?? "–" },
            { name: "Runs at most", class: "number", cell: (one) => one.max_running ?? "–" },
            { name: "Queues at most", class: "number", cell: (one) => one.max_queued ?? "–" },
            { name: "Registries", class: "wide", cell: (one) => one.allowed_registries?.join(", ") ?? "any" },
            { name: "Changed", cell: (one) => <When at={one.updated_at} /> },
            {
              name: "",
              cell: (one) => (
                <span class="buttons">
                  <button class="small" disabled={session.workspace === one.id} onClick={() => use(one.id)}>Work in it</button>
                  <FormButton label="Change" class="small" title={`Change ${one.id}`} submit={change(one.id)} submitLabel="Save">
                    <Settings of={one} />
                  </FormButton>
                </span>
              ),
            },
          ]}
        />
        <More more={list.more} />
      </Panel>
    </Page>
  );
}

function settings(given: Record<string, string>): Record<string, unknown> {
  const { clip_version, fallback, max_running, max_queued, allowed_registries } = given;
  return {
    ...(clip_version && { clip_version: Number(clip_version) }),
    ...(fallback && { fallback }),
    ...(max_running && { max_running: Number(max_running) }),
    ...(max_queued && { max_queued: Number(max_queued) }),
    ...(allowed_registries && { allowed_registries: allowed_registries.split(/[\s,]+/).filter(Boolean) }),
  };
}

function Settings(props: { of?: Workspace }) {
  const { of } = props;
  return (
    <>
      <div class="pair">
        <Field label="Version">
          <select name="clip_version" defaultValue={`${of?.clip_version ?? ""}`}>
            <option value="">rollouts or settings decide</option>
            <option value="1">v1</option>
            <option value="2">v2</option>
          </select>
        </Field>
        <Field label="If it can't be v2">
          <select name="fallback" defaultValue={of?.fallback ?? ""}>
            <option value="">as configured</option>
            <option value="v1">make v1</option>
            <option value="none">fail</option>
          </select>
        </Field>
      </div>
      <div class="pair">
        <Field label="Jobs that run at a time">
          <input name="max_running" type="number" min="0" defaultValue={`${of?.max_running ?? ""}`} />
        </Field>
        <Field label="Jobs that wait at a time">
          <input name="max_queued" type="number" min="0" defaultValue={`${of?.max_queued ?? ""}`} />
        </Field>
      </div>
      <Field label="Registries that pulls may come from" hint="Hosts with spaces between them; any when empty">
        <input name="allowed_registries" defaultValue={of?.allowed_registries?.join(" ") ?? ""} />
      </Field>
    </>
  );
}

export function Tokens() {
  const url = (before?: string) => address("/v1/tokens", [], { before, limit: 100 });
  const list = usePages<Schema["TokenPage"], Token>(url(), (page) => page.tokens, (page) => (page.next ? url(page.next) : null));
  const [made, setMade] = useState<Schema["TokenWithSecret"]>();
  const action = useAction();
  const create = async (form: FormData) => {
    const { name, role, workspace, days } = filled(form);
    const body = { name, role, ...(role === "workspace" && { workspace }), ...(days && { expires_in: Number(days) * 86_400 }) };
    setMade((await (await send("POST", address("/v1/tokens"), body)).json()) as Schema["TokenWithSecret"]);
    list.reload();
  };
  const rotate = (token: Token) => async () => {
    setMade((await (await send("POST", address("/v1/tokens/{id}/rotate", [token.id]))).json()) as Schema["TokenWithSecret"]);
    list.reload();
  };
  const revoke = (token: Token) => async () => {
    await send("DELETE", address("/v1/tokens/{id}", [token.id]));
    list.reload();
  };
  return (
    <Page
      title="Tokens"
      actions={
        <FormButton label="New token" class="primary" submit={create} submitLabel="Create">
          <Field label="Name" hint="Who is going to have it">
            <input name="name" required />
          </Field>
          <Field label="Role">
            <select name="role">
              <option value="workspace">workspace: things of one workspace</option>
              <option value="gateway">gateway: jobs and images of every workspace</option>
              <option value="admin">admin: everything</option>
            </select>
          </Field>
          <Field label="Workspace" hint="Of a token of role workspace">
            <input name="workspace" defaultValue={session.workspace || "default"} />
          </Field>
          <Field label="Days until it expires" hint="Never when empty">
            <input name="days" type="number" min="1" />
          </Field>
        </FormButton>
      }
    >
      <Failure error={list.error ?? action.error} />
      {made && (
        <div class="notice" role="status">
          <p>The text of <b>{made.name}</b> is shown this once:</p>
          <p><code class="break">{made.secret}</code></p>
          <p class="buttons">
            <button onClick={() => void navigator.clipboard?.writeText(made.secret)}>Copy</button>
            <button onClick={() => setMade(undefined)}>Hide</button>
          </p>
        </div>
      )}
      <Panel>
        <Table<Token>
          label="Tokens"
          items={list.items}
          id={(token) => token.id}
          empty={list.loading ? "Loading …" : "There are none but that of the settings, if it has one."}
          columns={[
            { name: "Token", cell: (token) => <b>{token.name}</b> },
            { name: "Role", cell: (token) => token.role },
            { name: "Workspace", cell: (token) => token.workspace ?? "–" },
            { name: "May", class: "wide", cell: (token) => <span class="quiet">{token.scopes.join(", ")}</span> },
            { name: "State", cell: (token) => <State state={token.revoked_at ? "revoked" : token.expires_at && Date.parse(token.expires_at) < Date.now() ? "expired" : "active"} /> },
            { name: "Expires", cell: (token) => (token.expires_at ? time(token.expires_at) : "never") },
            {
              name: "",
              cell: (token) =>
                !token.revoked_at && (
                  <span class="buttons">
                    <ActionButton action={action} class="small" work={rotate(token)}>Rotate</ActionButton>
                    <ActionButton action={action} class="small danger" work={revoke(token)}>Revoke</ActionButton>
                  </span>
                ),
            },
          ]}
        />
        <More more={list.more} />
      </Panel>
    </Page>
  );
}

export function Audit() {
  const url = (before?: string) => address("/v1/audit", [], { before, limit: 50 });
  const list = usePages<Schema["AuditPage"], AuditEvent>(url(), (page) => page.events, (page) => (page.next ? url(page.next) : null), 10_000);
  return (
    <Page title="Changes">
      <Failure error={list.error} />
      <Panel>
        <Table<AuditEvent>
          label="Changes"
          items={list.items}
          id={(event) => event.id}
          empty={list.loading ? "Loading …" : "Nothing was changed yet."}
          columns={[
            { name: "When", cell: (event) => <When at={event.at} /> },
            { name: "Who", cell: (event) => event.actor },
            { name: "What", cell: (event) => event.action.replaceAll("_", " ") },
            { name: "Of", cell: (event) => event.subject },
            { name: "Workspace", cell: (event) => event.workspace ?? "–" },
            { name: "In detail", class: "wide", cell: (event) => <code class="break">{JSON.stringify(event.detail)}</code> },
          ]}
        />
        <More more={list.more} />
      </Panel>
    </Page>
  );
}
