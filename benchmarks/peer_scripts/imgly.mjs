// Photos to cut-outs by @imgly/background-removal-node: node imgly.mjs PHOTO|FOLDER OUT MODEL
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join, parse } from "node:path";
import { pathToFileURL } from "node:url";
import { removeBackground } from "@imgly/background-removal-node";

const [input, out, model] = process.argv.slice(2);
const photos = statSync(input).isDirectory() ? readdirSync(input).sort().map(name => join(input, name)) : [input];
// Their nets are looked for below the current folder otherwise.
const publicPath = new URL("node_modules/@imgly/background-removal-node/dist/", import.meta.url).href;
mkdirSync(out, { recursive: true });
for (const photo of photos) {
  const picture = await removeBackground(pathToFileURL(photo).href, { model, publicPath });
  writeFileSync(join(out, `${parse(photo).name}.png`), Buffer.from(await picture.arrayBuffer()));
}
