// Tokens as `jose` makes them, the library of many issuers. Reads one JSON document on
// stdin: {"keys": [algorithm, …]} prints pairs {"public", "private"} of JSON Web Keys;
// {"tokens": [{"key"?, "secret"?, "header", "payload"}, …]} prints signed tokens, of
// payloads that are text. Without a key or secret, the token is unsecured.
const request = JSON.parse(require("fs").readFileSync(0, "utf8"));

async function keyPair(jose, algorithm) {
  const pair = await jose.generateKeyPair(algorithm, { extractable: true });
  return {
    public: await jose.exportJWK(pair.publicKey),
    private: await jose.exportJWK(pair.privateKey),
  };
}

async function token(jose, { key, secret, header, payload }) {
  if (!key && !secret) {
    return `${jose.base64url.encode(JSON.stringify(header))}.${jose.base64url.encode(payload)}.`;
  }
  const signing = key
    ? await jose.importJWK(key, header.alg)
    : new TextEncoder().encode(secret);
  // What is critical must be known to the signer as well.
  const crit = Object.fromEntries((header.crit || []).map((name) => [name, true]));
  return new jose.CompactSign(new TextEncoder().encode(payload))
    .setProtectedHeader(header)
    .sign(signing, { crit });
}

async function run() {
  const jose = await import("jose");
  const made = request.keys
    ? request.keys.map((algorithm) => keyPair(jose, algorithm))
    : request.tokens.map((wanted) => token(jose, wanted));
  console.log(JSON.stringify(await Promise.all(made)));
}

run();
