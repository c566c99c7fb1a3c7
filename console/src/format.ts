// Numbers and times for people.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count: number | null | undefined): string {
  if (count == null) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(value >= 10 ? 3 : 2)} ${UNITS[unit]}`;
}

export function number(value: number | null | undefined): string {
  return value == null ? "–" : value.toLocaleString("en");
}

export function percent(share: number | null | undefined): string {
  if (share == null) return "–";
  const value = share * 100;
  return `${value === 0 || value >= 10 || value <= -10 ? Math.round(value) : value.toPrecision(2)} %`;
}

export function seconds(value: number | null | undefined): string {
  if (value == null || Number.isNaN(value)) return "–";
  if (value === 0) return "0 s";
  if (value < 0.001) return `${Math.max(0, Math.round(value * 1e6))} µs`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

export function between(from: string | null | undefined, to: string | null | undefined): string {
  return from && to ? seconds((Date.parse(to) - Date.parse(from)) / 1000) : "–";
}

export function time(at: string | null | undefined): string {
  return at ? new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "–";
}

/** "5 min ago". */
export function ago(at: string | null | undefined, now = Date.now()): string {
  if (!at) return "–";
  const past = Math.max(0, (now - Date.parse(at)) / 1000);
  if (past < 5) return "just now";
  if (past < 60) return `${Math.floor(past)} s ago`;
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86_400) return `${Math.floor(past / 3600)} h ago`;
  return `${Math.floor(past / 86_400)} d ago`;
}

/** The first digits of a digest or id. */
export function short(digest: string | null | undefined): string {
  return digest ? digest.replace(/^sha256:/, "").slice(0, 12) : "–";
}

/** `index.docker.io/library/alpine:3.20@sha256:...` as people write it. */
export function reference(text: string): string {
  return text.replace(/^index\.docker\.io\/(library\/)?/, "").replace(/@sha256:[0-9a-f]+$/, "");
}
