// What a product's own back end serves for its pages: a few of the service's routes, for whoever is logged in.

import type { Billing } from "./billing.js";
import { BillingError } from "./errors.js";
import type { Method } from "./transport.js";

/** Whom a request is for, and whether they may see and change what it costs. */
export interface Visitor {
  /** The product's own id of the customer; left out where the client's key is the organization's own. */
  organization?: string;
  /** Whether previews and changes are theirs to make. */
  manage?: boolean;
}

export interface HandlerOptions {
  /** Who asks; null: nobody who is logged in. */
  authorize(request: Request): Visitor | null | undefined | Promise<Visitor | null | undefined>;
  /** Where it is served; `/api/billing` if it is left out. */
  basePath?: string;
}

interface Route {
  method: Method;
  path: RegExp;
  manage: boolean;
  query: readonly string[];
}

const read = (path: RegExp, ...query: string[]): Route => ({ method: "GET", path, manage: false, query });
const change = (method: Method, path: RegExp, ...query: string[]): Route => ({ method, path, manage: true, query });

/** Everything else is 404, whatever the key may do. */
const ROUTES: readonly Route[] = [
  read(/^\/state$/, "after", "wait"),
  read(/^\/usage$/),
  read(/^\/plans$/, "limit", "cursor"),
  read(/^\/grace-periods$/, "active", "limit", "cursor"),
  change("POST", /^\/subscription\/preview$/),
  change("POST", /^\/subscription$/),
  change("PUT", /^\/subscription$/),
  change("DELETE", /^\/subscription$/),
  change("POST", /^\/subscription\/reactivate$/),
  change("DELETE", /^\/subscription\/pending-change$/),
  change("POST", /^\/checkout$/),
  change("POST", /^\/checkout\/[\w-]{1,255}\/complete$/),
];

const ASKED = ["if-none-match", "idempotency-key"];
const ANSWERED = ["etag", "cache-control", "retry-after", "x-request-id"];
const MAX_BODY = 64 * 1024;

export function createBillingHandler(billing: Billing, options: HandlerOptions): (request: Request) => Promise<Response> {
  const base = (options.basePath ?? "/api/billing").replace(/\/+$/, "");
  return async (request) => {
    try {
      return await answer(billing, options, base, request);
    } catch (error) {
      if (error instanceof BillingError) return problem(error);
      throw error;
    }
  };
}

async function answer(billing: Billing, options: HandlerOptions, base: string, request: Request): Promise<Response> {
  const url = new URL(request.url);
  const path = url.pathname.startsWith(`${base}/`) ? url.pathname.slice(base.length) : "";
  const route = ROUTES.find((one) => one.method === request.method && one.path.test(path));
  if (!route) throw failure(404, "not_found", "there is no such route here");
  if (fromElsewhere(request)) throw failure(403, "cross_site", "another site's page may not ask this");
  const visitor = await options.authorize(request);
  if (!visitor) throw failure(401, "unauthenticated", "log in first");
  if (route.manage && visitor.manage !== true) throw failure(403, "forbidden", "this is for those who manage the billing");
  const body = request.method === "GET" ? undefined : await bodyOf(request);
  const { organization } = visitor;
  // Names the organization, or fails as the key demands.
  billing.organization(organization);
  const query: Record<string, string> = {};
  for (const name of route.query) {
    const value = url.searchParams.get(name);
    if (value !== null) query[name] = value;
  }
  if (path === "/subscription" && url.searchParams.get("immediately") === "true") query["immediately"] = "true";
  const headers = picked(request.headers, ASKED);
  const changes = route.manage && path !== "/subscription/preview";
  const given = await billing.requestRaw({
    method: route.method,
    path: `/api/billing${path}`,
    organization,
    query,
    rawBody: body === "" ? undefined : body,
    headers,
    signal: request.signal,
    accept: [304],
    // Without a key of the page's own, nothing makes a change safe to repeat.
    attempts: changes && !headers["idempotency-key"] ? 1 : undefined,
    changes,
  });
  const empty = given.status === 204 || given.status === 304;
  return new Response(empty ? null : JSON.stringify(given.body ?? null), {
    status: given.status,
    headers: { "cache-control": "private, no-store", ...picked(given.headers, ANSWERED), "content-type": "application/json" },
  });
}

/** A form or a script of another site, with this one's cookies. */
function fromElsewhere(request: Request): boolean {
  const site = request.headers.get("sec-fetch-site");
  if (site === "cross-site" || site === "same-site") return true;
  // A form cannot say that it has JSON; DELETE cannot come from one.
  const method = request.method;
  if (method !== "POST" && method !== "PUT") return false;
  return !/^application\/json\b/i.test(request.headers.get("content-type") ?? "");
}

async function bodyOf(request: Request): Promise<string> {
  const declared = Number(request.headers.get("content-length") ?? "0");
  const text = declared > MAX_BODY ? undefined : await request.text();
  if (text === undefined || text.length > MAX_BODY) throw failure(413, "body_too_large", "the body is too large");
  return text;
}

function picked(headers: Headers, names: readonly string[]): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of names) {
    const value = headers.get(name);
    if (value !== null) found[name] = value;
  }
  return found;
}

function failure(status: number, code: string, detail: string): BillingError {
  return new BillingError({ status, code, detail });
}

function problem(error: BillingError): Response {
  // An answer that is none of the service's is no success.
  const status = error.status >= 400 ? error.status : error.status === 0 ? 503 : 502;
  const own = status === 401 && error.requestId !== undefined;
  const body = {
    ...error.details,
    type: error.details["type"] ?? "about:blank",
    // The key that the service refuses is the product's, not the visitor's.
    status: own ? 502 : status,
    code: own ? "billing_misconfigured" : error.code,
    detail: own ? "the billing service refuses the product's key" : error.detail,
  };
  const headers: Record<string, string> = { "content-type": "application/problem+json", "cache-control": "no-store" };
  if (error.requestId !== undefined) headers["x-request-id"] = error.requestId;
  if (error.retryAfterMs !== undefined) headers["retry-after"] = String(Math.ceil(error.retryAfterMs / 1_000));
  return new Response(JSON.stringify(body), { status: body.status, headers });
}
