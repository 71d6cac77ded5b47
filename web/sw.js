// Keeps the page's files for times without a network, and answers with the headers that several threads need.
const CACHE = "u2slim-BUILD";
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  // No script of the page, nor any of its workers, may speak to another host.
  "Content-Security-Policy": "connect-src 'self'",
};

self.addEventListener("install", event => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(
    ["./", "local.js", "worker.js", "cut.js", "check.js", "expected.json"].map(name => new Request(name, { cache: "reload" })))));
});

self.addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("u2slim-") && name !== CACHE) await caches.delete(name);
  await self.clients.claim();
})()));

self.addEventListener("fetch", event => {
  const { request } = event;
  if (new URL(request.url).origin === location.origin && request.method === "GET") event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event, cache = await caches.open(CACHE);
  let found = await cache.match(request, { ignoreSearch: true });
  if (!found) {
    found = await fetch(request);
    if (found.ok) event.waitUntil(cache.put(request, found.clone()).catch(() => {}));  // as where there is no room
  }
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
