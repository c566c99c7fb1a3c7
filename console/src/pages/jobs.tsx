import { address, send, type Job, type Schema } from "../api";
import { between, reference } from "../format";
import { usePages } from "../hooks";
import { Failure, Field, FormButton, More, Page, Panel, State, Table, Version, When, type Column } from "../parts/basics";
import { go, to, type Route } from "../route";

type JobPage = Schema["JobPage"];

const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"];

/** What a job is about, in a few words. */
export function subject(job: Job): string {
  switch (job.spec.kind) {
    case "pull":
      return reference(job.spec.source);
    case "migrate":
      return `to v${job.spec.to}`;
    case "build":
      return job.spec.dockerfile?.split("\n").find((line) => /^\s*FROM\s/i.test(line)) ?? "a Dockerfile in its context";
  }
  return "";
}

const COLUMNS: Column<Job>[] = [
  { name: "State", cell: (job) => <State state={job.state} title={job.error?.message ?? job.reason} /> },
  { name: "Job", cell: (job) => <a href={to(["jobs", job.id])}>{job.spec.kind}</a> },
  { name: "Of", class: "wide", cell: (job) => <span title={"source" in job.spec ? job.spec.source : undefined}>{subject(job)}</span> },
  { name: "Image", cell: (job) => <a class="mono" href={to(["images", job.spec.image_id])}>{job.spec.image_id}</a> },
  { name: "Version", cell: (job) => <Version version={job.result?.clip_version} /> },
  { name: "Came", cell: (job) => <When at={job.created_at} /> },
  { name: "Ran", class: "number", cell: (job) => between(job.started_at, job.finished_at) },
  { name: "Attempts", class: "number", cell: (job) => job.attempt },
];

export function Jobs(props: { route: Route }) {
  const { query } = props.route;
  const state = query.get("state") ?? undefined;
  const image = query.get("image") ?? undefined;
  const url = (before?: string) => address("/v1/jobs", [], { state, image_id: image, before, limit: 50 });
  const jobs = usePages<JobPage, Job>(url(), (page) => page.jobs, (page) => (page.next ? url(page.next) : null), 3000);
  return (
    <Page title="Jobs" actions={<><NewBuild /><NewJob /></>}>
      <div class="filters">
        <div role="group" aria-label="State">
          {[undefined, ...STATES].map((one) => (
            <a key={one} class="chip" aria-current={state === one ? "true" : undefined} href={to(["jobs"], { state: one, image })}>
              {one ?? "all"}
            </a>
          ))}
        </div>
        <form
          role="search"
          onSubmit={(event) => {
            event.preventDefault();
            go(["jobs"], { state, image: String(new FormData(event.currentTarget).get("image")).trim() });
          }}
        >
          <input name="image" placeholder="Image id" aria-label="Image id" defaultValue={image ?? ""} pattern="[0-9a-f]{16}" title="16 lowercase hex digits" />
        </form>
      </div>
      <Failure error={jobs.error} />
      <Panel>
        <Table label="Jobs" columns={COLUMNS} items={jobs.items} id={(job) => job.id} empty={jobs.loading ? "Loading …" : "There are no such jobs."} />
        <More more={jobs.more} />
      </Panel>
    </Page>
  );
}

/** What was typed in, without what was left empty. */
export function filled(form: FormData): Record<string, string> {
  return Object.fromEntries([...form.entries()].map(([name, value]) => [name, String(value).trim()]).filter(([, value]) => value));
}

export function randomImageId(): string {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function NewJob() {
  const submit = async (form: FormData) => {
    const { clip_version, force, ...rest } = filled(form);
    const body = { kind: "pull", ...rest, ...(clip_version && { clip_version: Number(clip_version) }), ...(force && { force: true }) };
    const job = (await (await send("POST", address("/v1/jobs"), body)).json()) as Job;
    go(["jobs", job.id]);
  };
  return (
    <FormButton label="New pull" title="Pull an image" class="primary" submit={submit} submitLabel="Submit">
      <Field label="Image" hint="A reference, such as alpine:3.20">
        <input name="source" required autocomplete="off" spellcheck={false} />
      </Field>
      <Field label="Image id" hint="16 hex digits; names the archive">
        <input name="image_id" required pattern="[0-9a-f]{16}" defaultValue={randomImageId()} class="mono" />
      </Field>
      <div class="pair">
        <Field label="Version">
          <select name="clip_version">
            <option value="">as configured</option>
            <option value="2">v2</option>
            <option value="1">v1</option>
          </select>
        </Field>
        <Field label="If it can't be v2">
          <select name="fallback">
            <option value="">as configured</option>
            <option value="v1">make v1</option>
            <option value="none">fail</option>
          </select>
        </Field>
      </div>
      <div class="pair">
        <Field label="Platform">
          <input name="platform" placeholder="linux/amd64" />
        </Field>
        <Field label="Priority">
          <select name="priority">
            <option value="">normal</option>
            <option value="high">high</option>
            <option value="low">low</option>
          </select>
        </Field>
      </div>
      <Field label="Credentials" hint="user:password, for a private image">
        <input name="credentials" type="password" autocomplete="off" />
      </Field>
      <label class="check">
        <input type="checkbox" name="force" /> replace an archive of this image id that has other content
      </label>
    </FormButton>
  );
}

function NewBuild() {
  const submit = async (form: FormData) => {
    const { dockerfile, image_id, platform } = filled(form);
    const body = { kind: "build", dockerfile, image_id, ...(platform && { platform }), ...(form.get("no_cache") && { no_cache: true }) };
    const job = (await (await send("POST", address("/v1/jobs"), body)).json()) as Job;
    go(["jobs", job.id]);
  };
  return (
    <FormButton label="New build" title="Build an image" submit={submit} submitLabel="Submit">
      <Field label="Dockerfile" hint="Without a context: nothing is copied from this machine">
        <textarea name="dockerfile" required rows={8} class="mono" spellcheck={false} placeholder={"FROM debian:12\nRUN apt-get update"} />
      </Field>
      <Field label="Image id" hint="16 hex digits; names the archive">
        <input name="image_id" required pattern="[0-9a-f]{16}" defaultValue={randomImageId()} class="mono" />
      </Field>
      <Field label="Platform">
        <input name="platform" placeholder="linux/amd64" />
      </Field>
      <label class="check">
        <input type="checkbox" name="no_cache" /> run every step, whatever is known already
      </label>
    </FormButton>
  );
}

export function jobTitle(job: Job): string {
  switch (job.spec.kind) {
    case "pull":
      return `Pull of ${reference(job.spec.source)}`;
    case "migrate":
      return `Migration of ${job.spec.image_id} to v${job.spec.to}`;
    case "build":
      return `Build of ${job.spec.image_id}`;
  }
  return "Job";
}
