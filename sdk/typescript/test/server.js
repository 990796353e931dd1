// A server that answers as a test says, in order; and waits for what a test waits for.
import { once } from "node:events";
import { createServer } from "node:http";

/** Each request is answered by the next of `replies`, the last of which stays. */
export async function serve(t, ...replies) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const seen = { method: request.method, url: request.url, headers: request.headers, text, body: text ? JSON.parse(text) : undefined };
    const reply = replies[Math.min(requests.length, replies.length - 1)];
    requests.push(seen);
    await reply(response, seen, request);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${server.address().port}`;
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url, requests, server };
}

export const json = (status, body, headers = {}) => (response) => {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(body === undefined ? undefined : JSON.stringify(body));
};

export const problem = (status, code, headers = {}, more = {}) => (response) => {
  response.writeHead(status, { "content-type": "application/problem+json", "x-request-id": "r-1", ...headers });
  response.end(JSON.stringify({ ...more, type: `urn:${code}`, title: "t", status, code, detail: `it is ${code}` }));
};

/** The request arrives, and nobody hears of it. */
export const reset = (response) => response.socket.destroy();

export const hang = () => undefined;

/** Counts each event once, as the service does. */
export function ledger() {
  const counted = new Map();
  const take = (response, request) => {
    const results = request.body.events.map((event) => {
      const before = counted.get(event.id);
      if (!before) counted.set(event.id, event);
      return { id: event.id, status: before ? "duplicate" : "recorded" };
    });
    json(200, { results })(response);
  };
  return { counted, take };
}

/** Waits until `holds`, for as long as a slow machine may need. */
export async function until(holds, what = "it") {
  const ends = Date.now() + 30_000;
  while (!holds()) {
    if (Date.now() > ends) throw new Error(`${what} did not come`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const QUICK = { minDelayMs: 1, maxDelayMs: 20 };
