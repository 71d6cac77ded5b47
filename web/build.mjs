// Builds the page that cuts photos out in the browser: node build.mjs [NET.onnx] [FOLDER]
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as ort from "onnxruntime-web/wasm";
import { sampled, testPicture } from "./check.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const [net = join(here, "../src/u2slim/nets/lite-l.onnx"), folder = join(here, "../dist/web")] = process.argv.slice(2);
const runtime = join(here, "node_modules/onnxruntime-web/dist");
const LATER = /webgpu|asyncify/;  // what is loaded only by who asks for the graphics card
const LIMIT = 6e6;  // bytes that a first visit may take

function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

// The page is the server's; another script and another sentence make it do without one.
function page() {
  let html = readFileSync(join(here, "../src/u2slim/app/page.html"), "utf8");
  for (const [old, now] of [
    [/<script id="maker">.*?<\/script>/s, '<script type="module" src="local.js"></script>'],
    [/<p id="where">.*?<\/p>/s, '<p id="where">Photos stay on this machine: this page cuts them out by itself, also without a network.</p>'],
  ]) {
    if (!old.test(html)) fail(`The server's page has no ${old} any more.`);
    html = html.replace(old, now);
  }
  const scripts = [...html.matchAll(/<script type="module">(.*?)<\/script>/gs)];
  const hashes = scripts.map(([, text]) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`);
  const policy = `default-src 'none'; script-src 'self' 'wasm-unsafe-eval' ${hashes.join(" ")}; style-src 'unsafe-inline'; `
    + "img-src blob: data:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'";
  return html.replace("<head>", `<head>\n<meta http-equiv="Content-Security-Policy" content="${policy}">`);
}

// What the net makes of a picture here: a graphics card has to make the same of it.
async function expected(model) {
  ort.env.wasm.numThreads = 1;  // more are for browsers
  let session;
  try {
    session = await ort.InferenceSession.create(model);
  } catch (error) {
    fail(`${net} cannot be run by onnxruntime-web: ${error.message}`);
  }
  const [input] = session.inputMetadata, [output] = session.outputMetadata;
  const sizes = input.shape?.map(Number) ?? [];
  if (input.name !== "image" || output.name !== "mask" || sizes[1] !== 3 || !sizes.every(size => size > 0)) {
    fail(`${net} takes ${input.name} (${input.shape}): give a net with the preprocessing inside and a fixed size, `
      + "as export.py writes it with export.preprocess=embedded.");
  }
  const [, , height, width] = sizes;
  const image = new ort.Tensor("float32", testPicture(height, width), sizes);
  return sampled((await session.run({ image })).mask.data, height, width);
}

let model;
try {
  model = readFileSync(net);
} catch (error) {
  fail(`${net} cannot be read (${error.code}): give a net, as src/u2slim/nets/lite-s.onnx.`);
}
const mask = await expected(model);

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const write = (name, data) => writeFileSync(join(folder, name), data);
write("index.html", page());
for (const name of ["local.js", "worker.js", "cut.js", "check.js"]) cpSync(join(here, name), join(folder, name));
for (const kind of ["wasm", "webgpu"]) cpSync(join(runtime, `ort.${kind}.bundle.min.mjs`), join(folder, `ort.${kind}.mjs`));
// Compressed here, since not every host does. Its ending is none that a host would tell browsers to unpack.
const packed = (name, data) => write(`${name}.packed`, gzipSync(data, { level: 9 }));
write("expected.json", JSON.stringify(mask));
packed("net", model);
packed("wasm", readFileSync(join(runtime, "ort-wasm-simd-threaded.wasm")));
packed("webgpu", readFileSync(join(runtime, "ort-wasm-simd-threaded.asyncify.wasm")));
cpSync(join(here, "../LICENSE"), join(folder, "LICENSE"));
cpSync(join(here, "../NOTICE"), join(folder, "NOTICE"));
// A new build has another name, so that browsers fetch it anew.
const files = readdirSync(folder).sort();
const digest = createHash("sha256");
for (const name of files) digest.update(name).update(readFileSync(join(folder, name)));
const worker = readFileSync(join(here, "sw.js"), "utf8");
write("sw.js", worker.replace("BUILD", digest.update(worker).digest("hex").slice(0, 16)));

let first = 0;
for (const name of readdirSync(folder).sort()) {
  const bytes = statSync(join(folder, name)).size, loads = !LATER.test(name) && name !== "LICENSE" && name !== "NOTICE";
  if (loads) first += bytes;
  console.log(`${String(bytes).padStart(9)}  ${name}${loads ? "" : "  (not on a first visit)"}`);
}
console.log(`${String(first).padStart(9)}  bytes of a first visit, with ${basename(net)}`);
if (first > LIMIT) console.log(`That is more than ${LIMIT / 1e6} MB: a smaller net is quicker to load.`);
console.log(`${relative(process.cwd(), folder) || folder}: any static host serves it; here: python3 -m http.server -d ${relative(process.cwd(), folder) || folder}`);
process.exit(0);  // which the runtime's threads would put off
