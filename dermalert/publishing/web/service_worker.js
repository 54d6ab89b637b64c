// Keeps the page for use without a network. What is sent is refused: nothing of a visitor's leaves by this page.

const VERSION = "{{ version }}";
const FILES = {{ files | tojson }};

self.addEventListener("install", event => event.waitUntil(
  caches.open(VERSION).then(cache => cache.addAll(FILES.map(file => new Request(file, {cache: "no-cache"}))))));

self.addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("dermalert-") && name !== VERSION) await caches.delete(name);
  await self.clients.claim();
})()));

async function answer(request) {
  const cache = await caches.open(VERSION);
  const held = await cache.match(request.mode === "navigate" ? "./" : request, {ignoreSearch: true});
  return held ?? fetch(request);
}

self.addEventListener("fetch", event => {
  const {method, url} = event.request;
  const own = method === "GET" && url.startsWith(self.registration.scope);
  event.respondWith(own ? answer(event.request) : Promise.resolve(Response.error()));
});
