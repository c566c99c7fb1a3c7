// Plots by uPlot: estimates with their intervals, and courses with bands.
import { useEffect, useState } from "preact/hooks";
import uPlot from "uplot";
import { useWidth } from "../hooks";

export interface Estimate {
  value: number;
  low?: number | null;
  high?: number | null;
}

/** A colour of the stylesheet, as it is now. */
function ink(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Counts up when the colours change: by the system or by the button. */
function useColours(): number {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const changed = () => setTurn((turn) => turn + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    const observer = new MutationObserver(changed);
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    system.addEventListener("change", changed);
    return () => {
      observer.disconnect();
      system.removeEventListener("change", changed);
    };
  }, []);
  return turn;
}

function axis(extra: uPlot.Axis = {}): uPlot.Axis {
  return {
    stroke: ink("quiet"),
    font: "12px system-ui, sans-serif",
    grid: { stroke: ink("line"), width: 1 },
    ticks: { stroke: ink("line"), width: 1, size: 4 },
    ...extra,
  };
}

function Plot(props: { label: string; height: number; options: () => Omit<uPlot.Options, "width" | "height">; data: uPlot.AlignedData }) {
  const [element, width] = useWidth<HTMLDivElement>();
  const colours = useColours();
  const { height, options, data } = props;
  const told = JSON.stringify(data);
  useEffect(() => {
    if (!element.current || width < 60) return;
    const plot = new uPlot({ ...options(), width, height }, data, element.current);
    return () => plot.destroy();
    // The data as text: lists that are equal are no other plot.
  }, [width, height, told, colours]);
  return <div class="plot" ref={element} role="img" aria-label={props.label} style={{ minHeight: `${height}px` }} />;
}

/** Estimates side by side: a point each, and a whisker over its interval. */
export function Intervals(props: {
  label: string;
  groups: string[];
  /** For each group the estimates of v1 and v2. */
  v1: (Estimate | null | undefined)[];
  v2: (Estimate | null | undefined)[];
  format: (value: number) => string;
  height?: number;
}) {
  const spread = 0.14;
  const points = [
    ...props.v1.map((estimate, at) => ({ at: at - spread, estimate, version: 0 })),
    ...props.v2.map((estimate, at) => ({ at: at + spread, estimate, version: 1 })),
  ].sort((a, b) => a.at - b.at);
  const column = (version: number, of: (estimate: Estimate) => number | null | undefined) =>
    points.map(({ estimate, version: own }) => (own === version && estimate ? (of(estimate) ?? estimate.value) : null));
  const data: uPlot.AlignedData = [
    points.map(({ at }) => at),
    column(0, (e) => e.value), column(0, (e) => e.low), column(0, (e) => e.high),
    column(1, (e) => e.value), column(1, (e) => e.low), column(1, (e) => e.high),
  ];
  const numbers = data.slice(1).flatMap((values) => [...values].filter((value): value is number => value !== null));
  const top = Math.max(...numbers, 0) * 1.15 || 1;
  const options = () => {
    const colours = [ink("v1"), ink("v2")];
    const series = (version: number, shown: boolean): uPlot.Series => ({
      stroke: colours[version] ?? "",
      show: true,
      paths: () => null,
      points: { show: shown, size: 9, fill: colours[version] ?? "", width: 0 },
    });
    return {
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 8, 0, 0] as uPlot.Padding,
      scales: { x: { time: false, range: [-0.5, props.groups.length - 0.5] as uPlot.Range.MinMax }, y: { range: [0, top] as uPlot.Range.MinMax } },
      axes: [
        axis({ size: 30, grid: { show: false }, splits: () => props.groups.map((_, at) => at), values: () => props.groups }),
        axis({ size: 66, values: (_, splits) => splits.map(props.format) }),
      ],
      series: [{}, ...[0, 1].flatMap((version) => [series(version, true), series(version, false), series(version, false)])],
      hooks: { draw: [(plot: uPlot) => [0, 1].forEach((version) => whiskers(plot, 1 + version * 3, colours[version] ?? ""))] },
    };
  };
  return <Plot label={props.label} height={props.height ?? 190} options={options} data={data} />;
}

/** From the low to the high end of each estimate; `first` is the series of the values. */
function whiskers(plot: uPlot, first: number, colour: string): void {
  const [at, low, high] = [plot.data[0], plot.data[first + 1], plot.data[first + 2]];
  const { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2 * devicePixelRatio;
  const cap = 6 * devicePixelRatio;
  at.forEach((position, index) => {
    const [from, until] = [low?.[index], high?.[index]];
    if (from == null || until == null || from === until) return;
    const x = plot.valToPos(position, "x", true);
    const [bottom, top] = [plot.valToPos(from, "y", true), plot.valToPos(until, "y", true)];
    ctx.beginPath();
    ctx.moveTo(x, bottom);
    ctx.lineTo(x, top);
    for (const end of [bottom, top]) {
      ctx.moveTo(x - cap, end);
      ctx.lineTo(x + cap, end);
    }
    ctx.stroke();
  });
  ctx.restore();
}

/** Days are counted in UTC. */
function dayAndMonth(seconds: number): string {
  return new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

/** Two courses over days, each within its band. */
export function Course(props: {
  label: string;
  days: string[];
  v1: (Estimate | null | undefined)[];
  v2: (Estimate | null | undefined)[];
  format: (value: number) => string;
  height?: number;
}) {
  const of = (estimates: (Estimate | null | undefined)[], part: "value" | "low" | "high") =>
    estimates.map((estimate) => (estimate ? (estimate[part] ?? estimate.value) : null));
  const data: uPlot.AlignedData = [
    props.days.map((day) => Date.parse(day) / 1000),
    of(props.v1, "value"), of(props.v1, "low"), of(props.v1, "high"),
    of(props.v2, "value"), of(props.v2, "low"), of(props.v2, "high"),
  ];
  const options = () => {
    const course = (name: string): uPlot.Series => ({ label: name, stroke: ink(name), width: 2, points: { show: true, size: 6, fill: ink(name) }, spanGaps: true });
    const edge = (name: string): uPlot.Series => ({ stroke: ink(`${name}-band`), width: 1, points: { show: false }, spanGaps: true });
    return {
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 16, 0, 0] as uPlot.Padding,
      tzDate: (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      // A day of room at both ends: a single one would be a point at the edge.
      scales: { x: { range: (_: uPlot, from: number, until: number): uPlot.Range.MinMax => [from - 43_200, until + 43_200] }, y: { range: (_: uPlot, __: number, top: number): uPlot.Range.MinMax => [0, top * 1.15 || 1] } },
      axes: [axis({ size: 30, values: (_, splits) => splits.map(dayAndMonth), space: 60, incrs: [86_400, 2 * 86_400, 7 * 86_400] }), axis({ size: 66, values: (_, splits) => splits.map(props.format) })],
      series: [{}, course("v1"), edge("v1"), edge("v1"), course("v2"), edge("v2"), edge("v2")],
      bands: [
        { series: [3, 2] as [number, number], fill: ink("v1-band") },
        { series: [6, 5] as [number, number], fill: ink("v2-band") },
      ],
    };
  };
  return <Plot label={props.label} height={props.height ?? 220} options={options} data={data} />;
}
