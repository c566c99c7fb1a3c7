// Bundles src/ into dist/, which is checked in and becomes part of the binary: whoever builds that needs no node.
//
//   node build.mjs            writes dist/
//   node build.mjs --check    fails if dist/ is not what src/ makes
import { readFile, writeFile, mkdir, readdir, rm } from "node:fs/promises";
import { build } from "esbuild";

const check = process.argv.includes("--check");
const { outputFiles } = await build({
  entryPoints: { console: "src/main.tsx" },
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "linked",
  charset: "utf8",
  jsx: "automatic",
  jsxImportSource: "preact",
  outdir: "dist",
  write: false,
});
const made = new Map(outputFiles.map((file) => [file.path.split("/").pop(), Buffer.from(file.contents)]));
for (const name of ["index.html", "icon.svg"]) made.set(name, await readFile(`src/${name}`));
const licenses = Object.keys(JSON.parse(await readFile("package.json", "utf8")).dependencies).map(
  async (name) => `${name}\n\n${await readFile(`node_modules/${name}/LICENSE`, "utf8")}`,
);
made.set("licenses.txt", Buffer.from((await Promise.all(licenses)).join("\n\n")));

if (check) {
  const there = (await readdir("dist")).sort();
  const wanted = [...made.keys()].sort();
  let stale = there.join() !== wanted.join();
  for (const [name, bytes] of made) stale ||= !bytes.equals(await readFile(`dist/${name}`).catch(() => Buffer.of()));
  if (stale) {
    console.error("console/dist is not what console/src makes: run `npm run build` in console/");
    process.exit(1);
  }
} else {
  await rm("dist", { recursive: true, force: true });
  await mkdir("dist", { recursive: true });
  for (const [name, bytes] of made) await writeFile(`dist/${name}`, bytes);
  for (const [name, bytes] of made) console.log(`dist/${name}: ${bytes.length} bytes`);
}
