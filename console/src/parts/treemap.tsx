// What makes a directory big: areas by bytes, colours by layer. Each area is a button, so that keys reach all of them.
import { hierarchy, treemap, treemapSquarify, type HierarchyRectangularNode } from "d3-hierarchy";
import type { Schema } from "../api";
import { bytes, number, percent } from "../format";
import { useWidth } from "../hooks";

type Usage = Schema["DirectoryUsage"];
type Entry = Schema["EntryUsage"];

interface Area {
  /** Absent where it stands for all that is too small to be told. */
  entry?: Entry;
  name: string;
  bytes: number;
  children: Area[];
}

const HEIGHT = 460;
/** Colours of the stylesheet for layers, the largest share first. */
const COLOURS = 8;

/** Nests the entries below the directory; what they don't account for becomes an area of its own. */
export function nest(usage: Usage): Area {
  const root: Area = { name: usage.path, bytes: usage.bytes, children: [] };
  const areas = new Map<string, Area>([[usage.path, root]]);
  for (const entry of usage.entries) {
    const slash = entry.path.lastIndexOf("/");
    const parent = areas.get(entry.path.slice(0, slash) || "/");
    // Directories come before what is in them; one that is missing had no room in the answer.
    if (!parent || !entry.bytes || areas.has(entry.path)) continue;
    const area: Area = { entry, name: entry.path.slice(slash + 1), bytes: entry.bytes, children: [] };
    parent.children.push(area);
    areas.set(entry.path, area);
  }
  for (const area of areas.values()) {
    const rest = area.bytes - area.children.reduce((sum, child) => sum + child.bytes, 0);
    if (area.children.length && rest > 0) area.children.push({ name: "smaller ones", bytes: rest, children: [] });
  }
  return root;
}

/** Which colour a layer has: its place among the layers of the whole image. */
export function colour(layers: string[], layer: string | null | undefined): string {
  const place = layer ? layers.indexOf(layer) : -1;
  return place < 0 || place >= COLOURS ? "other" : `c${place}`;
}

export function Treemap(props: { usage: Usage; layers: string[]; open: (path: string) => void; choose: (entry: Entry) => void }) {
  const [element, width] = useWidth<HTMLDivElement>();
  const height = Math.min(HEIGHT, Math.max(260, width * 0.7));
  const laid = treemap<Area>()
    .size([width, height])
    .tile(treemapSquarify)
    .round(true)
    .paddingInner(2)
    .paddingTop((node) => (node.depth > 0 && node.children ? (isRoomy(node) ? 19 : 2) : 0))
    .paddingRight((node) => (node.depth > 0 ? 2 : 0))
    .paddingBottom((node) => (node.depth > 0 ? 2 : 0))
    .paddingLeft((node) => (node.depth > 0 ? 2 : 0))(
    hierarchy(nest(props.usage)).sum((area) => (area.children.length ? 0 : area.bytes)).sort((a, b) => (b.value ?? 0) - (a.value ?? 0)),
  );
  const seen = laid.descendants().filter((node) => node.depth > 0 && node.x1 - node.x0 > 3 && node.y1 - node.y0 > 3);
  return (
    <div class="treemap" ref={element} style={{ height: `${height}px` }} role="group" aria-label={`What is in ${props.usage.path}, by size`}>
      {width > 0 && seen.map((node) => <Cell key={node.ancestors().map((one) => one.data.name).join("/")} node={node} whole={props.usage.bytes} {...props} />)}
    </div>
  );
}

/** Whether a directory's name has room above what is in it. */
function isRoomy(node: HierarchyRectangularNode<Area>): boolean {
  return node.x1 - node.x0 > 46 && node.y1 - node.y0 > 44;
}

function Cell(props: { node: HierarchyRectangularNode<Area>; whole: number; layers: string[]; open: (path: string) => void; choose: (entry: Entry) => void }) {
  const { x0, y0, x1, y1, data, depth } = props.node;
  const { entry } = data;
  const style = { left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px` };
  const label = `${data.name}: ${bytes(data.bytes)}, ${percent(data.bytes / (props.whole || 1))}`;
  const named = props.node.children ? isRoomy(props.node) : x1 - x0 > 34 && y1 - y0 > 16;
  const body = named && (
    <span class="label">
      {data.name} <small>{bytes(data.bytes)}</small>
    </span>
  );
  if (!entry) {
    return (
      <div class="cell rest" style={style} title={label}>
        {body}
      </div>
    );
  }
  const kind = entry.type === "dir" ? "dir" : "file";
  const files = entry.type === "dir" ? `, ${number(entry.files)} files` : "";
  const act = () => (entry.type === "dir" ? props.open(entry.path) : props.choose(entry));
  return (
    <button
      class={`cell ${kind} ${colour(props.layers, entry.layer)}${props.node.children ? " parent" : ""}`}
      style={style}
      title={`${entry.path}: ${bytes(entry.bytes)}${files}`}
      aria-label={`${label}${files}`}
      data-depth={depth}
      onClick={act}
    >
      {body}
    </button>
  );
}
