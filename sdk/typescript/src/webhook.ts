// Events from the service: signed as Standard Webhooks says.

import type { BillingEvent } from "./types.js";

export type WebhookErrorCode =
  | "headers_missing"
  | "timestamp_out_of_tolerance"
  | "signature_invalid"
  | "payload_invalid"
  | "secret_invalid";

/** Why a message is not taken. All but `secret_invalid` are answered 400. */
export class WebhookError extends Error {
  readonly code: WebhookErrorCode;

  constructor(code: WebhookErrorCode, message: string) {
    super(message);
    this.name = "WebhookError";
    this.code = code;
  }
}

export interface VerifyOptions {
  /** How old, or how far ahead, a message may be; 300 if it is left out. */
  toleranceSeconds?: number;
  now?: Date;
}

export type HeaderSource = Headers | Record<string, string | readonly string[] | undefined>;

/** Signatures of a message that are looked at: a rotation has two. */
const MAX_SIGNATURES = 8;

/**
 * The event in a message of the service, once its signature has been verified.
 *
 * `body` is what was received, byte for byte: not what a parser has made of it.
 */
export async function verifyWebhook(
  body: string | Uint8Array | ArrayBuffer,
  headers: HeaderSource,
  secrets: string | readonly string[],
  options: VerifyOptions = {},
): Promise<BillingEvent> {
  const keys = await Promise.all(keysOf(secrets).map(imported));
  const id = header(headers, "webhook-id");
  const timestamp = header(headers, "webhook-timestamp");
  const signatures = header(headers, "webhook-signature");
  if (!id || !timestamp || !signatures) {
    throw new WebhookError("headers_missing", "expected webhook-id, webhook-timestamp and webhook-signature");
  }
  const sentAt = /^\d{1,12}$/.test(timestamp) ? Number(timestamp) : NaN;
  const now = (options.now ?? new Date()).getTime() / 1_000;
  // Also where it is no number.
  if (!(Math.abs(now - sentAt) <= (options.toleranceSeconds ?? 300))) {
    throw new WebhookError("timestamp_out_of_tolerance", "webhook-timestamp is too old, too far ahead, or no time");
  }
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body instanceof ArrayBuffer ? new Uint8Array(body) : body;
  const head = new TextEncoder().encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(head.length + bytes.length);
  signed.set(head);
  signed.set(bytes, head.length);
  const given = signatures.split(" ").slice(0, MAX_SIGNATURES).flatMap(signatureOf);
  const checks = keys.flatMap((key) => given.map((signature) => verify(key, signature, signed)));
  if (!(await Promise.all(checks)).includes(true)) {
    throw new WebhookError("signature_invalid", "no signature is that of a secret that is known");
  }
  return eventOf(bytes, id);
}

function eventOf(bytes: Uint8Array, id: string): BillingEvent {
  let event: unknown;
  try {
    event = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new WebhookError("payload_invalid", "the body is not JSON");
  }
  const read = event as { specversion?: unknown; id?: unknown; type?: unknown; data?: unknown } | null;
  if (read?.specversion !== "1.0" || read.id !== id || typeof read.type !== "string" || typeof read.data !== "object") {
    throw new WebhookError("payload_invalid", "the body is not a CloudEvent 1.0 with the id of webhook-id");
  }
  return event as BillingEvent;
}

function keysOf(secrets: string | readonly string[]): Uint8Array<ArrayBuffer>[] {
  const texts = (typeof secrets === "string" ? [secrets] : secrets).flatMap((text) => text.split(","));
  const keys = texts.map((text) => text.trim()).filter((text) => text !== "");
  if (keys.length === 0) throw new WebhookError("secret_invalid", "expected a secret, whsec_…");
  return keys.map((text) => {
    const bytes = base64(text.replace(/^whsec_/, ""));
    if (!bytes || bytes.length < 24 || bytes.length > 64) {
      throw new WebhookError("secret_invalid", "a secret is whsec_ and 24 to 64 bytes in Base64");
    }
    return bytes;
  });
}

function imported(bytes: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
}

/** In constant time, as WebCrypto verifies. */
function verify(key: CryptoKey, signature: Uint8Array<ArrayBuffer>, signed: Uint8Array<ArrayBuffer>): Promise<boolean> {
  return crypto.subtle.verify("HMAC", key, signature, signed);
}

function signatureOf(text: string): Uint8Array<ArrayBuffer>[] {
  const bytes = text.startsWith("v1,") ? base64(text.slice(3)) : undefined;
  return bytes?.length === 32 ? [bytes] : [];
}

function base64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function header(headers: HeaderSource, name: string): string | undefined {
  if (headers instanceof Headers) return headers.get(name) ?? undefined;
  for (const [key, value] of Object.entries(headers)) {
    // One that came twice is none.
    if (key.toLowerCase() === name) return typeof value === "string" ? value : value?.length === 1 ? value[0] : undefined;
  }
  return undefined;
}
