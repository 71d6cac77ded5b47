// The page's link to the worker that cuts photos out on this machine.
const $ = id => document.getElementById(id);
const waiting = new Map();
const PATIENCE = 5000;  // ms that the service worker, of a few kilobytes, may take to begin
let worker, ready, device, count = 0;

function say(sentence) { $("status").textContent = sentence; }

function wanted() { return $("gpu")?.checked ? "webgpu" : "wasm"; }

function start() {
  worker?.terminate();
  device = wanted();
  worker = new Worker("worker.js", { type: "module" });
  ready = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.loaded) {
        say(`Loading ${(data.loaded / 1e6).toFixed(1)}${data.all ? ` of ${(data.all / 1e6).toFixed(1)}` : ""} MB …`);
      } else if (data.ready) {
        if (!$("results").children.length) say(data.ready);
        resolve();
      } else if (data.broken) {
        reject(Error(data.broken));
      } else {
        const { resolve, reject } = waiting.get(data.id);
        waiting.delete(data.id);
        if (data.error) reject(Error(data.error)); else resolve(data.made);
      }
    };
    worker.onerror = event => {
      event.preventDefault();
      const error = Error("What cuts photos out cannot be loaded, or has ended: load the page again.");
      reject(error);
      for (const each of waiting.values()) each.reject(error);
      waiting.clear();
    };
  });
  ready.catch(error => say(error.message));
  worker.postMessage({ device });
}

// From a photo and what is asked for: its picture, whether there is a subject, and how sure the net is.
window.cutOut = async (file, asked) => {
  await settled;
  if (device !== wanted()) start();
  await ready;
  return new Promise((resolve, reject) => {
    waiting.set(count += 1, { resolve, reject });
    worker.postMessage({ id: count, file, asked: Object.fromEntries(asked) });
  });
};

// The service worker keeps all files for times without a network. It also lets the net have several threads, which
// browsers allow only on pages whose host, or whose service worker, says that they are apart from all others.
async function settle() {
  if (!navigator.serviceWorker) return;  // as on an address without https
  try {
    const controlled = navigator.serviceWorker.controller
      || new Promise(done => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
    await navigator.serviceWorker.register("sw.js");
    await Promise.race([controlled, new Promise(done => setTimeout(done, PATIENCE))]);
  } catch {
    return;  // as in private windows: then it goes without
  }
  if (crossOriginIsolated || $("results").children.length || sessionStorage.getItem("settled")) return;
  sessionStorage.setItem("settled", "yes");  // once, wherever the browser does not heed the headers
  location.reload();
  await new Promise(() => {});
}

async function offerGraphicsCard() {
  if (!await navigator.gpu?.requestAdapter().catch(() => null)) return;
  const label = document.createElement("label");
  label.className = "row";
  label.innerHTML = '<input type="checkbox" id="gpu"> On the graphics card (loads 6.6 MB more)';
  $("clear").before(label);
}

const settled = settle().then(offerGraphicsCard);
await settled;
if (!worker) start();
