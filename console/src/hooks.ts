// Data of the service in components.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { get } from "./api";

export interface Loaded<T> {
  data?: T;
  error?: Error;
  reload: () => void;
}

/** What an address gives; again every `every` milliseconds while the page is seen. Without an address, nothing. */
export function useData<T>(url: string | null, every?: number): Loaded<T> {
  const [state, setState] = useState<{ url: string | null; data?: T; error?: Error }>({ url });
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((turn) => turn + 1), []);
  useEffect(() => {
    if (!url) return;
    const stop = new AbortController();
    const load = async () => {
      try {
        const data = await get<T>(url, { signal: stop.signal });
        setState({ url, data });
      } catch (error) {
        // What was seen stays beside the error.
        if (!stop.signal.aborted) {
          setState((before) => ({ ...(before.url === url ? before : {}), url, error: error as Error }));
        }
      }
    };
    void load();
    const timer = every ? setInterval(() => document.hidden || void load(), every) : undefined;
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [url, every, turn]);
  const { data, error } = state.url === url ? state : {};
  return { ...(data !== undefined && { data }), ...(error && { error }), reload };
}

export interface Pages<T> {
  items: T[];
  error?: Error;
  more?: () => void;
  loading: boolean;
  reload: () => void;
}

/** Page after page of a list; the first page again every `every` milliseconds while only that is shown. */
export function usePages<P, T>(
  first: string,
  items: (page: P) => T[],
  next: (page: P) => string | null,
  every?: number,
): Pages<T> {
  const [rest, setRest] = useState<{ of: string; pages: P[]; error?: Error }>({ of: first, pages: [] });
  // A first page that moves on would leave a gap before the second.
  const head = useData<P>(first, rest.of === first && rest.pages.length ? undefined : every);
  const pages = [...(head.data ? [head.data] : []), ...(rest.of === first ? rest.pages : [])];
  const last = pages.at(-1);
  const following = last && next(last);
  const more = following
    ? () => {
        get<P>(following).then(
          (page) => setRest((rest) => ({ of: first, pages: [...(rest.of === first ? rest.pages : []), page] })),
          (error: Error) => setRest((rest) => ({ ...rest, error })),
        );
      }
    : undefined;
  const error = head.error ?? rest.error;
  const reload = () => {
    setRest({ of: first, pages: [] });
    head.reload();
  };
  return {
    items: pages.flatMap(items),
    loading: !head.data && !head.error,
    reload,
    ...(error && { error }),
    ...(more && { more }),
  };
}

export interface Action {
  run: (work: () => Promise<unknown>) => Promise<void>;
  busy: boolean;
  error?: Error;
}

/** Work that a button starts: one at a time, its error kept until the next. */
export function useAction(): Action {
  const [state, setState] = useState<{ busy: boolean; error?: Error }>({ busy: false });
  const busy = useRef(false);
  const run = async (work: () => Promise<unknown>) => {
    if (busy.current) return;
    busy.current = true;
    setState({ busy: true });
    try {
      await work();
      setState({ busy: false });
    } catch (error) {
      setState({ busy: false, error: error as Error });
    }
    busy.current = false;
  };
  return { run, ...state };
}

/** The width of an element, as it changes. */
export function useWidth<E extends HTMLElement>(): [{ current: E | null }, number] {
  const element = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (!element.current) return;
    const observer = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}
