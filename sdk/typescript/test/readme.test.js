import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as core from "../dist/index.js";
import * as node from "../dist/node.js";

test("what the README names is there, and what is there is in the README", () => {
  const text = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const rows = text.split("\n").filter((line) => line.startsWith("|") && !line.includes("useBilling"));
  const named = new Set(rows.flatMap((line) => [...line.matchAll(/(?:`|organizations\.)(\w+)\(/g)].map((found) => found[1])));
  const of = (type) => Object.getOwnPropertyNames(type.prototype).filter((name) => name !== "constructor");
  const there = [core.Billing, core.OrganizationBilling, core.Organizations].flatMap(of);
  assert.ok(named.size > 35, [...named].join(" "));
  const known = new Set([...there, ...Object.keys(core), "confirm", "release"]);
  assert.deepEqual([...named].filter((name) => !known.has(name)), []);
  // For the handler alone.
  const hidden = ["requestRaw", "pending"];
  assert.deepEqual(there.filter((name) => !named.has(name) && !hidden.includes(name)), []);
  for (const name of [...Object.keys(core), ...Object.keys(node)]) {
    if (/^(OrganizationBilling|Organizations)$/.test(name)) continue;
    assert.ok(text.includes(name), name);
  }
});
