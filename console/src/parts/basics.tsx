// What every page is put together from.
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError } from "../api";
import { ago, time } from "../format";
import type { Action } from "../hooks";

export function Page(props: { title: string; above?: ComponentChildren; actions?: ComponentChildren; children: ComponentChildren }) {
  useEffect(() => {
    document.title = `${props.title} · Clipwright`;
  }, [props.title]);
  return (
    <>
      <header class="head">
        <div class="titles">
          {props.above && <p class="above">{props.above}</p>}
          <h1>{props.title}</h1>
        </div>
        {props.actions && <div class="actions">{props.actions}</div>}
      </header>
      {props.children}
    </>
  );
}

export function Panel(props: { title?: string; aside?: ComponentChildren; class?: string; children: ComponentChildren }) {
  return (
    <section class={`panel ${props.class ?? ""}`}>
      {(props.title || props.aside) && (
        <header>
          {props.title && <h2>{props.title}</h2>}
          {props.aside && <div class="aside">{props.aside}</div>}
        </header>
      )}
      {props.children}
    </section>
  );
}

/** What went wrong, with the way to what helps. */
export function Failure(props: { error?: Error | undefined }) {
  const { error } = props;
  if (!error) return null;
  const problem = error instanceof ApiError ? error.problem : {};
  return (
    <div class="failure" role="alert">
      <p>{error.message}</p>
      {problem.code && (
        <p class="quiet">
          <Code code={problem.code} />
          {problem.request_id && <> · request {problem.request_id}</>}
        </p>
      )}
    </div>
  );
}

/** An error's code: leads to its row in the documentation. */
export function Code(props: { code: string }) {
  return (
    <a href={`/docs/troubleshooting.html#${encodeURIComponent(props.code)}`}>
      <code>{props.code}</code>
    </a>
  );
}

const TONES: Record<string, string> = {
  succeeded: "good", active: "good", delivered: "good", ok: "good", ready: "good",
  failed: "bad", rolled_back: "bad", given_up: "bad", revoked: "bad", unavailable: "bad",
  running: "busy", expired: "warn", paused: "warn", cancelled: "warn", retrying: "warn",
};

export function State(props: { state: string; title?: string | null | undefined }) {
  return (
    <span class={`state ${TONES[props.state] ?? "plain"}`} title={props.title ?? undefined}>
      {props.state.replaceAll("_", " ")}
    </span>
  );
}

export function Version(props: { version: number | null | undefined }) {
  return props.version ? <span class={`version v${props.version}`}>v{props.version}</span> : <span class="quiet">–</span>;
}

export function When(props: { at: string | null | undefined }) {
  return props.at ? (
    <time dateTime={props.at} title={time(props.at)}>
      {ago(props.at)}
    </time>
  ) : (
    <span class="quiet">–</span>
  );
}

/** Names and values; what is absent is left out. */
export function Facts(props: { facts: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {props.facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

export interface Column<T> {
  name: string;
  /** What the cell shows. */
  cell: (item: T) => ComponentChildren;
  class?: string;
}

export function Table<T>(props: { label: string; columns: Column<T>[]; items: T[]; id: (item: T) => string; empty: ComponentChildren }) {
  if (!props.items.length) return <p class="empty">{props.empty}</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.label}>
      <table>
        <thead>
          <tr>
            {props.columns.map((column) => (
              <th key={column.name} class={column.class} scope="col">
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {props.items.map((item) => (
            <tr key={props.id(item)}>
              {props.columns.map((column) => (
                <td key={column.name} class={column.class}>
                  {column.cell(item)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function More(props: { more?: (() => void) | undefined }) {
  return props.more ? (
    <p class="more">
      <button onClick={props.more}>More</button>
    </p>
  ) : null;
}

export function Field(props: { label: string; hint?: ComponentChildren; children: ComponentChildren }) {
  return (
    <label class="field">
      <span>{props.label}</span>
      {props.children}
      {props.hint && <small>{props.hint}</small>}
    </label>
  );
}

/** A button that opens a form in a dialog; the form's `submit` closes it when it comes to its end. */
export function FormButton(props: {
  label: string;
  title?: string;
  class?: string;
  submit: (form: FormData) => Promise<unknown>;
  submitLabel?: string;
  danger?: boolean;
  children: ComponentChildren;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const title = useId();
  const [open, setOpen] = useState(false);
  const [state, setState] = useState<{ busy: boolean; error?: Error }>({ busy: false });
  useEffect(() => {
    if (open) dialog.current?.showModal();
  }, [open]);
  const close = () => {
    dialog.current?.close();
    setOpen(false);
    setState({ busy: false });
  };
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    if (state.busy) return;
    setState({ busy: true });
    try {
      await props.submit(new FormData(event.target as HTMLFormElement));
      close();
    } catch (error) {
      setState({ busy: false, error: error as Error });
    }
  };
  return (
    <>
      <button class={props.class} onClick={() => setOpen(true)}>
        {props.label}
      </button>
      {open && (
        <dialog ref={dialog} aria-labelledby={title} onClose={close}>
          <form onSubmit={submit}>
            <h2 id={title}>{props.title ?? props.label}</h2>
            {props.children}
            <Failure error={state.error} />
            <footer>
              <button type="button" onClick={close}>
                Cancel
              </button>
              <button class={props.danger ? "danger" : "primary"} disabled={state.busy}>
                {props.submitLabel ?? props.label}
              </button>
            </footer>
          </form>
        </dialog>
      )}
    </>
  );
}

/** A button whose work may fail: the failure is shown by whoever holds the action. */
export function ActionButton(props: { action: Action; work: () => Promise<unknown>; class?: string; disabled?: boolean; children: ComponentChildren }) {
  return (
    <button class={props.class} disabled={props.disabled || props.action.busy} onClick={() => void props.action.run(props.work)}>
      {props.children}
    </button>
  );
}

/** A share of a whole. */
export function Bar(props: { share: number; label: string; class?: string }) {
  const width = `${Math.max(0, Math.min(1, props.share || 0)) * 100}%`;
  return (
    <div class={`bar ${props.class ?? ""}`} role="img" aria-label={props.label} title={props.label}>
      <div style={{ width }} />
    </div>
  );
}
