// Loads the net, and cuts photos out with it, in a thread of its own.
import { same, sampled, testPicture } from "./check.js";
import { cutOut } from "./cut.js";

let net;

// The bytes of a file that was packed when the page was built; `tell` is told as more of it is there.
async function unpacked(answer, tell) {
  const counted = new TransformStream({
    transform(part, out) {
      tell(part.length);
      out.enqueue(part);
    },
  });
  const stream = answer.body.pipeThrough(counted).pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw Error(`${name} is not to be had (${answer.status}).`);
  return answer;
}

async function open(device) {
  const answers = await Promise.all(["net.packed", `${device}.packed`].map(fetched));
  let all = 0, loaded = 0;
  for (const answer of answers) all += Number(answer.headers.get("Content-Length"));
  const tell = bytes => postMessage({ loaded: loaded += bytes, all });
  const files = answers.map(answer => unpacked(answer, tell));
  const [ort, model, wasmBinary] = await Promise.all([import(`./ort.${device}.mjs`), ...files]);
  ort.env.wasm.wasmBinary = wasmBinary;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  const session = await ort.InferenceSession.create(model, { executionProviders: [device] });
  const [, , height, width] = session.inputMetadata[0].shape.map(Number);
  const probability = async pixels => {
    const { mask } = await session.run({ image: new ort.Tensor("float32", pixels, [1, 3, height, width]) });
    return mask.getData();
  };
  if (device === "webgpu") {
    const mask = await probability(testPicture(height, width));
    if (!same(sampled(mask, height, width), await (await fetched("expected.json")).json())) {
      throw Error("this graphics card makes another mask of a test picture than it should; leave it out.");
    }
  }
  return { height, width, threads: ort.env.wasm.numThreads, probability };
}

self.onmessage = async ({ data }) => {
  if (data.device) {
    try {
      net = await open(data.device);
      const how = data.device === "webgpu" ? "on the graphics card" : `with ${net.threads} thread${net.threads > 1 ? "s" : ""}`;
      postMessage({ ready: `Ready, ${how}.` });
    } catch (error) {
      postMessage({ broken: `The net cannot be loaded: ${error.message}` });
    }
    return;
  }
  try {
    postMessage({ id: data.id, made: await cutOut(net, data.file, data.asked) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};
