import { render } from "preact";
import { useState } from "preact/hooks";
import { address, ApiError, get, session, type Schema } from "./api";
import { useData } from "./hooks";
import { Field, FormButton, Page } from "./parts/basics";
import { Compare } from "./pages/compare";
import { Health } from "./pages/health";
import { Image } from "./pages/image";
import { Images } from "./pages/images";
import { Job } from "./pages/job";
import { Jobs } from "./pages/jobs";
import { Rollout } from "./pages/rollout";
import { Rollouts } from "./pages/rollouts";
import { Audit, Tokens, Workspaces } from "./pages/tenants";
import { to, useRoute, type Route } from "./route";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const PAGES: [string, string][] = [
  ["jobs", "Jobs"],
  ["images", "Images"],
  ["compare", "v1 and v2"],
  ["rollouts", "Rollouts"],
  ["workspaces", "Workspaces"],
  ["tokens", "Tokens"],
  ["audit", "Changes"],
  ["health", "Health"],
];

function Body(props: { route: Route; switched: () => void }) {
  const { route } = props;
  const [page, id] = route.parts;
  switch (page) {
    case undefined:
    case "jobs":
      return id ? <Job key={id} id={id} /> : <Jobs route={route} />;
    case "images":
      return id ? <Image key={id} id={id} route={route} /> : <Images />;
    case "compare":
      return <Compare route={route} />;
    case "rollouts":
      return id ? <Rollout key={id} name={id} route={route} /> : <Rollouts />;
    case "workspaces":
      return <Workspaces switched={props.switched} />;
    case "tokens":
      return <Tokens />;
    case "audit":
      return <Audit />;
    case "health":
      return <Health />;
    default:
      return <Page title="Not found"><p class="empty">There is no such page.</p></Page>;
  }
}

function Console() {
  const route = useRoute();
  // Everything is asked for anew when somebody else asks.
  const [who, setWho] = useState(0);
  const switched = () => setWho((who) => who + 1);
  const page = route.parts[0] ?? "jobs";
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>
        To the content
      </a>
      <nav class="side-bar" aria-label="Pages">
        <a class="brand" href={to(["jobs"])}>
          <img src="/console/icon.svg" alt="" width="24" height="24" /> Clipwright
        </a>
        <ul>
          {PAGES.map(([name, title]) => (
            <li key={name}>
              <a href={to([name])} aria-current={page === name ? "page" : undefined}>{title}</a>
            </li>
          ))}
        </ul>
        <div class="foot">
          <Who key={who} switched={switched} />
          <p>
            <a href="/docs/">Docs</a> · <a href="/docs/api/">API</a>
          </p>
          <Theme />
        </div>
      </nav>
      <main id="main" tabIndex={-1} key={who}>
        <Gate switched={switched}>
          <Body route={route} switched={switched} />
        </Gate>
      </main>
    </>
  );
}

/** Asks for a token where the service wants one and has got none that is good. */
function Gate(props: { switched: () => void; children: preact.ComponentChildren }) {
  const asked = useData<unknown>(address("/v1/jobs", [], { limit: 1 }));
  const { error } = asked;
  if (!asked.data && !error) return null;
  if (!(error instanceof ApiError) || error.status !== 401) return <>{props.children}</>;
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    session.token = String(new FormData(event.target as HTMLFormElement).get("token")).trim();
    props.switched();
  };
  return (
    <form class="gate panel" onSubmit={submit}>
      <h1>Who are you?</h1>
      <p>This service asks for a token. It stays in this tab, and is forgotten with it.</p>
      {session.token && <p class="warning" role="alert">{error.message}</p>}
      <Field label="Token">
        <input name="token" type="password" required autocomplete="off" autofocus />
      </Field>
      <button class="primary">Go on</button>
    </form>
  );
}

function Who(props: { switched: () => void }) {
  const submit = async (form: FormData) => {
    const token = String(form.get("token")).trim();
    const workspace = String(form.get("workspace")).trim();
    const before = { token: session.token, workspace: session.workspace };
    if (token) session.token = token;
    session.workspace = workspace;
    try {
      await get<Schema["JobPage"]>(address("/v1/jobs", [], { limit: 1 }));
    } catch (error) {
      Object.assign(session, before);
      throw error;
    }
    props.switched();
  };
  const leave = () => {
    session.token = "";
    session.workspace = "";
    props.switched();
  };
  return (
    <p class="who">
      <span class="quiet">{session.token ? "with a token" : "without a token"}, in {session.workspace || "its workspace"}</span>
      <span class="buttons">
        <FormButton label="Switch" class="small" title="Token and workspace" submit={submit} submitLabel="Use">
          <Field label="Token" hint="The one that is there stays when this is empty">
            <input name="token" type="password" autocomplete="off" />
          </Field>
          <Field label="Workspace" hint="Of an admin's or gateway's token; the token's own when empty">
            <input name="workspace" defaultValue={session.workspace} pattern="[a-z0-9][a-z0-9_\-]{0,63}" />
          </Field>
        </FormButton>
        {session.token && <button class="small" onClick={leave}>Leave</button>}
      </span>
    </p>
  );
}

const THEMES = ["system", "light", "dark"];

function wear(theme: string): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("clipwright.theme") ?? "system");
  const choose = (event: Event) => {
    const chosen = (event.currentTarget as HTMLSelectElement).value;
    localStorage.setItem("clipwright.theme", chosen);
    wear(chosen);
    setTheme(chosen);
  };
  return (
    <select aria-label="Colours" value={theme} onChange={choose}>
      {THEMES.map((one) => <option key={one} value={one}>{one}</option>)}
    </select>
  );
}

wear(localStorage.getItem("clipwright.theme") ?? "system");
const root = document.getElementById("console");
if (root) render(<Console />, root);
