// The service's API: who asks, what is asked, and errors as it tells them.
import type { components, paths } from "../types/openapi";

export type Schema = components["schemas"];
export type Job = Schema["Job"];
export type JobEvent = Schema["JobEvent"];
export type LogEntry = Schema["LogEntry"];
export type Image = Schema["Image"];
export type Problem = Schema["Problem"];

/** A path of the API document: one that is not there doesn't compile. */
type Path = keyof paths;
type Query = Record<string, string | number | boolean | undefined>;

const TOKEN = "clipwright.token";
const WORKSPACE = "clipwright.workspace";

/** Who asks: kept for the session of this tab, and nowhere else. */
export const session = {
  get token(): string {
    return sessionStorage.getItem(TOKEN) ?? "";
  },
  set token(token: string) {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  },
  get workspace(): string {
    return sessionStorage.getItem(WORKSPACE) ?? "";
  },
  set workspace(name: string) {
    if (name) sessionStorage.setItem(WORKSPACE, name);
    else sessionStorage.removeItem(WORKSPACE);
  },
};

/** What the service refused, in its own words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Partial<Problem>,
  ) {
    super(problem.detail ?? `the service answered ${status}`);
  }
}

/** The address of an operation: `{id}` of its path from `ids`, in their order. */
export function address(path: Path, ids: string[] = [], query: Query = {}): string {
  const left = [...ids];
  const filled = path.replace(/\{[^}]+\}/g, () => encodeURIComponent(left.shift() ?? ""));
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return given.length ? `${filled}?${search}` : filled;
}

/** Sends a request; throws what the service refuses as [`ApiError`]. */
export async function send(method: string, url: string, body?: unknown, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (session.token) headers.set("authorization", `Bearer ${session.token}`);
  if (session.workspace) headers.set("clipwright-workspace", session.workspace);
  if (body !== undefined) headers.set("content-type", "application/json");
  const answer = await fetch(url, {
    ...init,
    method,
    headers,
    cache: "no-store",
    body: body === undefined ? null : JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, problem as Partial<Problem>);
}

export async function get<T>(url: string, init: RequestInit = {}): Promise<T> {
  return (await send("GET", url, undefined, init)).json() as Promise<T>;
}

/** The events of a job, as they happen, until the final one. */
export function follow(id: string, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const url = (after: number) => address("/v1/jobs/{id}/events", [id], { after });
  return objects(url, (event) => event.seq, (event) => isFinal(event.event), signal);
}

/** What a job writes, line by line, until it ends. */
export function followLog(id: string, signal: AbortSignal): AsyncGenerator<LogEntry> {
  const url = (offset: number) => address("/v1/jobs/{id}/log", [id], { offset });
  return objects(url, (entry) => entry.next, undefined, signal);
}

/**
 * The JSON objects of a stream of lines. Connections that break are taken up again behind `place` of the last one; the
 * stream ends with an object that `isLast`, or, where there is no such, when it is closed in good order.
 */
async function* objects<T>(
  url: (place: number) => string,
  place: (object: T) => number,
  isLast: ((object: T) => boolean) | undefined,
  signal: AbortSignal,
): AsyncGenerator<T> {
  let last = 0;
  for (let failures = 0; !signal.aborted; ) {
    try {
      const answer = await send("GET", url(last), undefined, { signal, headers: { accept: "application/x-ndjson" } });
      if (answer.status === 204 || !answer.body) return;
      failures = 0;
      for await (const line of lines(answer.body)) {
        const object = JSON.parse(line) as T;
        last = place(object);
        yield object;
        if (isLast?.(object)) return;
      }
      if (!isLast) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) throw error;
      failures += 1;
    }
    await new Promise((done) => setTimeout(done, Math.min(500 * 2 ** failures, 10_000)));
  }
}

async function* lines(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part.trim()) yield part;
  }
  if (rest.trim()) yield rest;
}

export function isFinal(state: string): boolean {
  return ["succeeded", "failed", "cancelled", "expired"].includes(state);
}

/** Saves what an address gives as a file: a link alone would not carry the token. */
export async function download(url: string, name: string): Promise<void> {
  const answer = await send("GET", url);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
