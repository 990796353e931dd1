// Builds the package: types from the API's description, then JavaScript and declarations.
//
//   node scripts/build.js --openapi FILE
//
// FILE is what `valuecanvas-billing openapi` prints. Without it, the types that were generated
// last are used.
import { spawnSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const at = process.argv.indexOf("--openapi");
const types = join(root, "src", "openapi.ts");

/** The file of a package's program. */
function program(name, file) {
  const found = require.resolve(`${name}/package.json`, { paths: [root] });
  return join(dirname(found), file);
}

/** Runs it; what fails has said why. */
function run(stdout, file, ...args) {
  const { status } = spawnSync(process.execPath, [file, ...args], { cwd: root, stdio: ["ignore", stdout, "inherit"] });
  if (status !== 0) process.exit(1);
}

if (at > 0) {
  const description = process.argv[at + 1];
  if (description === undefined || !existsSync(description)) {
    console.error(`build: --openapi: ${description ?? "expected a file"}${description ? " is not there" : ""}`);
    process.exit(2);
  }
  run("ignore", program("openapi-typescript", "bin/cli.js"), resolve(description), "-o", types);
} else if (!existsSync(types)) {
  console.error("build: no types yet: give --openapi FILE, which `valuecanvas-billing openapi` prints");
  process.exit(2);
}
rmSync(join(root, "dist"), { recursive: true, force: true });
const tsc = program("typescript", "bin/tsc");
run("inherit", tsc, "-p", "tsconfig.json");
run("inherit", tsc, "-p", "tsconfig.node.json");
