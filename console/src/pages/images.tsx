import { address, type Image, type Schema } from "../api";
import { bytes, number, reference } from "../format";
import { usePages } from "../hooks";
import { Failure, More, Page, Panel, Table, Version, When, type Column } from "../parts/basics";
import { to } from "../route";

type ImagePage = Schema["ImagePage"];

const COLUMNS: Column<Image>[] = [
  { name: "Image", cell: (image) => <a class="mono" href={to(["images", image.image_id])}>{image.image_id}</a> },
  { name: "Version", cell: (image) => <Version version={image.clip_version} /> },
  { name: "Of", class: "wide", cell: (image) => <span title={image.reference}>{reference(image.reference)}</span> },
  { name: "Archive", class: "number", cell: (image) => bytes(image.archive.size) },
  { name: "Compressed", class: "number", cell: (image) => bytes(image.compressed_bytes) },
  { name: "Plain", class: "number", cell: (image) => bytes(image.plain_bytes) },
  { name: "Files", class: "number", cell: (image) => number(image.files) },
  { name: "Layers", class: "number", cell: (image) => image.layers.length },
  { name: "Made", cell: (image) => <When at={image.created_at} /> },
];

export function imagePages(after?: string): string {
  return address("/v1/images", [], { after, limit: 100 });
}

export function Images() {
  const images = usePages<ImagePage, Image>(imagePages(), (page) => page.images, (page) => (page.next ? imagePages(page.next) : null), 10_000);
  return (
    <Page title="Images" actions={<a class="button" href={to(["compare"])}>Compare two</a>}>
      <Failure error={images.error} />
      <Panel>
        <Table label="Images" columns={COLUMNS} items={images.items} id={(image) => image.image_id} empty={images.loading ? "Loading …" : "There are no images yet: a pull makes one."} />
        <More more={images.more} />
      </Panel>
    </Page>
  );
}
