import { useState } from "preact/hooks";
import { address, download, send, type Schema } from "../api";
import { bytes, number, seconds, short, time } from "../format";
import { useAction, useData, usePages, type Action } from "../hooks";
import { ActionButton, Bar, Code, Facts, Failure, FormButton, More, Page, Panel, Table, Version } from "../parts/basics";
import { colour, Treemap } from "../parts/treemap";
import { go, to, type Route } from "../route";

type Detail = Schema["ImageDetail"];
type Usage = Schema["DirectoryUsage"];
type FilePage = Schema["FilePage"];
type FileEntry = Schema["FileEntry"];

export function Image(props: { id: string; route: Route }) {
  const { id } = props;
  const image = useData<Detail>(address("/v1/images/{image_id}", [id]));
  const whole = useData<Usage>(address("/v1/images/{image_id}/files/usage", [id], { depth: 1, limit: 1 }));
  const action = useAction();
  const above = <a href={to(["images"])}>Images</a>;
  if (!image.data) return <Page title={id} above={above}>{image.error ? <Failure error={image.error} /> : <p class="empty">Loading …</p>}</Page>;
  const { data } = image;
  const layers = whole.data?.layers.map((one) => one.layer) ?? [];
  const remove = async () => {
    await send("DELETE", address("/v1/images/{image_id}", [id]));
    go(["images"]);
  };
  return (
    <Page
      title={id}
      above={above}
      actions={
        <>
          <a class="button" href={to(["compare"], { left: id })}>Compare</a>
          <ActionButton action={action} work={() => download(address("/v1/images/{image_id}/archive", [id]), `${id}.clip`)}>Archive</ActionButton>
          <FormButton label="Delete" title="Delete this image?" danger submit={remove}>
            <p>The archive, what migrations kept of it and what is known of the image go. A container that runs from a v1 archive in a bucket reads its data from there.</p>
          </FormButton>
        </>
      }
    >
      <Failure error={action.error} />
      <div class="columns">
        <Panel title="Image">
          <Facts
            facts={[
              ["Version", <><Version version={data.clip_version} />{data.version?.decided_by && <span class="quiet"> decided by {data.version.decided_by}{data.version.rollout && ` ${data.version.rollout}`}</span>}</>],
              ["Instead of v2", data.version?.code && <><Code code={data.version.code} /> <span class="quiet">{data.version.reason}</span></>],
              ["Of", <span class="break">{data.reference}</span>],
              ["Platform", data.platform],
              ["Archive", `${bytes(data.archive.size)} as ${data.archive.key}`],
              ["Compressed", bytes(data.compressed_bytes)],
              ["Plain", bytes(data.plain_bytes)],
              ["Files", number(data.files)],
              ["Waited", seconds(data.timing?.waited_seconds)],
              ["Took", seconds(data.seconds)],
              ["Made by", <a class="mono" href={to(["jobs", data.job_id])}>{data.job_id}</a>],
            ]}
          />
          {data.warnings.map((warning) => <p key={warning} class="warning">{warning}</p>)}
        </Panel>
        <Panel title="Layers">
          <Layers image={data} usage={whole.data} layers={layers} />
        </Panel>
      </div>
      <Files id={id} path={props.route.query.get("path") ?? "/"} layers={layers} action={action} />
    </Page>
  );
}

/** The layers from the bottom to the top: how large, and how much of them is seen in the image. */
function Layers(props: { image: Detail; usage: Usage | undefined; layers: string[] }) {
  const { layers } = props.image;
  const most = Math.max(...layers.map((layer) => layer.plain_size), 1);
  const seen = new Map(props.usage?.layers.map((one) => [one.layer, one.bytes]));
  return (
    <Table
      label="Layers"
      items={layers.map((layer, place) => ({ ...layer, place }))}
      id={(layer) => `${layer.place}`}
      empty="It has none."
      columns={[
        { name: "", cell: (layer) => <span class={`key ${colour(props.layers, layer.digest)}`} /> },
        { name: "Layer", cell: (layer) => <span class="mono" title={layer.digest}>{short(layer.digest)}</span> },
        { name: " ", class: "wide", cell: (layer) => <Bar share={layer.plain_size / most} label={bytes(layer.plain_size)} /> },
        { name: "Plain", class: "number", cell: (layer) => bytes(layer.plain_size) },
        { name: "Compressed", class: "number", cell: (layer) => bytes(layer.size) },
        { name: "Seen", class: "number", cell: (layer) => (props.image.clip_version === 2 && props.usage ? bytes(seen.get(layer.digest) ?? 0) : "–") },
      ]}
    />
  );
}

function Files(props: { id: string; path: string; layers: string[]; action: Action }) {
  const { id, path } = props;
  const usage = useData<Usage>(address("/v1/images/{image_id}/files/usage", [id], { path, depth: 8, limit: 500 }));
  const page = (after?: string) => address("/v1/images/{image_id}/files", [id], { path, after, limit: 200 });
  const files = usePages<FilePage, FileEntry>(page(), (one) => one.entries ?? [], (one) => (one.next ? page(one.next) : null));
  const [chosen, setChosen] = useState<{ path: string; bytes: number }>();
  const open = (path: string) => go(["images", id], { path });
  const save = (path: string, path_hex?: string | null) => () =>
    download(address("/v1/images/{image_id}/files/content", [id], path_hex ? { path_hex } : { path }), path.split("/").pop() || "file");
  return (
    <>
      <Panel title="What makes it big" aside={<Crumbs id={id} path={path} />}>
        <Failure error={usage.error} />
        {usage.data && (
          <>
            <p class="quiet">
              {bytes(usage.data.bytes)} in {number(usage.data.files)} files. A directory opens; colours are layers.
            </p>
            <Treemap usage={usage.data} layers={props.layers} open={open} choose={setChosen} />
            {chosen && (
              <p class="chosen" role="status">
                <span class="break mono">{chosen.path}</span> {bytes(chosen.bytes)}{" "}
                <ActionButton action={props.action} work={save(chosen.path)}>Download</ActionButton>
              </p>
            )}
          </>
        )}
      </Panel>
      <Panel title="Files" aside={<Crumbs id={id} path={path} />}>
        <Failure error={files.error} />
        <Table
          label={`Files in ${path}`}
          items={files.items}
          id={(file) => file.path_hex ?? file.path}
          empty={files.loading ? "Loading …" : "There is nothing in it."}
          columns={[
            {
              name: "Name",
              class: "wide",
              cell: (file) => {
                const name = file.path.split("/").pop();
                if (file.type === "dir") return <a href={to(["images", id], { path: file.path })}>{name}/</a>;
                return file.type === "symlink" ? <>{name} <span class="quiet">→ {file.target}</span></> : name;
              },
            },
            { name: "Mode", cell: (file) => <span class="mono">{file.mode}</span> },
            { name: "Owner", class: "number", cell: (file) => `${file.uid}:${file.gid}` },
            { name: "Size", class: "number", cell: (file) => (file.type === "file" ? bytes(file.size) : "") },
            { name: "Changed", cell: (file) => time(file.mtime) },
            { name: "Layer", cell: (file) => file.layer && <span class="mono" title={file.layer}><span class={`key ${colour(props.layers, file.layer)}`} /> {short(file.layer)}</span> },
            { name: "", cell: (file) => file.type === "file" && <ActionButton action={props.action} class="small" work={save(file.path, file.path_hex)}>Download</ActionButton> },
          ]}
        />
        <More more={files.more} />
      </Panel>
    </>
  );
}

function Crumbs(props: { id: string; path: string }) {
  const names = props.path.split("/").filter(Boolean);
  return (
    <nav class="crumbs" aria-label="Directory">
      <a href={to(["images", props.id])}>/</a>
      {names.map((name, at) => (
        <a key={at} href={to(["images", props.id], { path: `/${names.slice(0, at + 1).join("/")}` })}>
          {name}/
        </a>
      ))}
    </nav>
  );
}
