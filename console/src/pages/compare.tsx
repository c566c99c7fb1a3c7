// Two images side by side, and all of v1 beside all of v2.
import type { ComponentChildren } from "preact";
import { address, type Image, type Schema } from "../api";
import { bytes, number, percent, reference, seconds } from "../format";
import { useData } from "../hooks";
import { Facts, Failure, Page, Panel, State, Version } from "../parts/basics";
import { go, to, type Route } from "../route";
import { imagePages } from "./images";

type Detail = Schema["ImageDetail"];
type Trace = Schema["Trace"];

function median(values: number[]): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  const [below, above] = [sorted[half - 1], sorted[half]];
  return above === undefined || sorted.length % 2 || below === undefined ? above : (below + above) / 2;
}

/** The first image that was made in both versions. */
function pair(images: Image[]): { left?: string; right?: string } {
  for (const left of images) {
    if (left.clip_version !== 1) continue;
    const right = images.find((one) => one.clip_version === 2 && one.manifest_digest === left.manifest_digest);
    if (right) return { left: left.image_id, right: right.image_id };
  }
  const of = (version: number) => images.find((image) => image.clip_version === version)?.image_id;
  const [left, right] = [of(1), of(2)];
  return { ...(left && { left }), ...(right && { right }) };
}

export function Compare(props: { route: Route }) {
  const page = useData<Schema["ImagePage"]>(imagePages());
  const images = page.data?.images ?? [];
  const found = pair(images);
  const left = props.route.query.get("left") ?? found.left;
  const given = props.route.query.get("right");
  const other = images.find((image) => image.image_id === left);
  const twin = images.find((image) => image.image_id !== left && image.manifest_digest === other?.manifest_digest);
  const right = given ?? (props.route.query.get("left") ? twin?.image_id : found.right);
  const choose = (side: "left" | "right") => (event: Event) =>
    go(["compare"], { left, right, [side]: (event.currentTarget as HTMLSelectElement).value });
  return (
    <Page title="v1 and v2">
      <Failure error={page.error} />
      <Panel title="All images" aside={page.data?.next ? "the first 100" : undefined}>
        <All images={images} />
      </Panel>
      <Panel title="Two images">
        <div class="pair wide">
          {(["left", "right"] as const).map((side) => {
            const chosen = side === "left" ? left : right;
            return (
              <div key={side} class="side">
                <select aria-label={`The ${side} image`} value={chosen ?? ""} onChange={choose(side)}>
                  <option value="">choose an image</option>
                  {images.map((image) => (
                    <option key={image.image_id} value={image.image_id}>
                      v{image.clip_version} · {image.image_id} · {reference(image.reference)}
                    </option>
                  ))}
                </select>
                {chosen && <Side id={chosen} />}
              </div>
            );
          })}
        </div>
      </Panel>
      <p class="quiet">
        How builds, pulls and starts compare when chance decides the version: see <a href={to(["rollouts"])}>rollouts</a>.
      </p>
    </Page>
  );
}

function All(props: { images: Image[] }) {
  const of = (version: number) => props.images.filter((image) => image.clip_version === version);
  const rows: [string, (images: Image[]) => ComponentChildren][] = [
    ["Images", (images) => number(images.length)],
    ["Archives together", (images) => bytes(images.reduce((sum, image) => sum + image.archive.size, 0))],
    ["Archive, median", (images) => bytes(median(images.map((image) => image.archive.size)))],
    ["Compressed layers, median", (images) => bytes(median(images.map((image) => image.compressed_bytes)))],
    ["Time of the job, median", (images) => seconds(median(images.map((image) => image.seconds)))],
    ["Made instead of v2", (images) => number(images.filter((image) => image.version?.code).length)],
  ];
  return (
    <div class="scroll">
      <table class="versus">
        <thead>
          <tr>
            <th scope="col" />
            <th scope="col" class="number"><Version version={1} /></th>
            <th scope="col" class="number"><Version version={2} /></th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([name, cell]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td class="number">{cell(of(1))}</td>
              <td class="number">{cell(of(2))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Side(props: { id: string }) {
  const image = useData<Detail>(address("/v1/images/{image_id}", [props.id]));
  const trace = useData<Trace>(address("/v1/images/{image_id}/traces", [props.id]));
  if (!image.data) return image.error ? <Failure error={image.error} /> : <p class="empty">Loading …</p>;
  const { data } = image;
  return (
    <Facts
      facts={[
        ["Version", <Version version={data.clip_version} />],
        ["Image", <a class="mono" href={to(["images", props.id])}>{props.id}</a>],
        ["Archive", bytes(data.archive.size)],
        ["Share of the layers", percent(data.archive.size / Math.max(1, data.compressed_bytes))],
        ["Compressed", bytes(data.compressed_bytes)],
        ["Plain", bytes(data.plain_bytes)],
        ["Files", number(data.files)],
        ["Layers", data.layers.length],
        ["Job took", seconds(data.seconds)],
        ["Waited", seconds(data.timing?.waited_seconds)],
        ["Needs its registry", data.clip_version === 2 ? "yes, for what is read" : "no"],
        ["Traced starts", trace.data ? number(trace.data.starts) : "–"],
        ["Warnings", data.warnings.length ? <State state={`${data.warnings.length}`} /> : "none"],
      ]}
    />
  );
}
