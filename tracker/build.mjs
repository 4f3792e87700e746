// Builds the tracker: types of the contract from its schema, then one script, its compressed forms and its types.
//
//   node build.mjs [FOLDER]     FOLDER is ../collector/tracker by default
//
// The output depends on the sources and the pinned tools only, so CI can build it anew and compare.

import { build } from "esbuild";
import { minify } from "terser";
import { readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = (path) => new URL(path, import.meta.url);
const folder = process.argv[2] ?? here("../collector/tracker").pathname;

const schema = JSON.parse(readFileSync(here("../schemas/collect.schema.json"), "utf8"));
const contract = writeContract(schema);
writeFileSync(here("src/contract.d.ts"), contract);

const { outputFiles } = await build({
  entryPoints: [here("src/main.ts").pathname],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2021",
  charset: "utf8",
  legalComments: "none",
  tsconfigRaw: { compilerOptions: { alwaysStrict: false } }, // without "use strict", 10 bytes
  write: false,
});
// After esbuild, terser takes off another 470 bytes of brotli: it inlines constants and functions that are used once.
// To inline more makes the script shorter, but its compressed form longer.
const { code } = await minify(outputFiles[0].text, {
  ecma: 2020,
  toplevel: true,
  compress: {
    ecma: 2020,
    passes: 4,
    collapse_vars: false,
    inline: 1,
    keep_fargs: false,
    pure_getters: true,
    unsafe_arrows: true,
  },
  format: { ecma: 2020 },
});
const script = Buffer.from(code);
// Which mode and window are best changes with every edit, by up to 40 bytes.
const [brotli] = [constants.BROTLI_MODE_GENERIC, constants.BROTLI_MODE_TEXT, constants.BROTLI_MODE_FONT]
  .flatMap((mode) => [15, 16, 18, 22].map((window) => compress(script, mode, window)))
  .sort((a, b) => a.length - b.length);
const gzip = gzipSync(script, { level: 9 });
gzip[9] = 255; // the operating system, which zlib would write

const api = readFileSync(here("src/api.d.ts"), "utf8").replace(/^import .*\n+/gm, "");
writeFileSync(`${folder}/t.js`, script);
writeFileSync(`${folder}/t.js.br`, brotli);
writeFileSync(`${folder}/t.js.gz`, gzip);
writeFileSync(`${folder}/collector.d.ts`, `${contract}\n${api}`);
console.log(`t.js: ${script.length} bytes, ${gzip.length} with gzip, ${brotli.length} with brotli`);

function compress(bytes, mode, window) {
  const params = {
    [constants.BROTLI_PARAM_MODE]: mode,
    [constants.BROTLI_PARAM_LGWIN]: window,
    [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  };
  return brotliCompressSync(bytes, { params });
}

/** The fields of an event as TypeScript, in the order of the schema. */
function writeContract({ properties, required }) {
  const { event_type, ...fields } = properties;
  const typeOf = ({ type, enum: values }) => {
    const kinds = [type].flat();
    const named = values?.filter((value) => value !== null).map((value) => JSON.stringify(value));
    return [...(named ?? kinds.filter((kind) => kind !== "null")), ...(kinds.includes("null") ? ["null"] : [])];
  };
  const lines = Object.entries(fields).map(([name, field]) => {
    const mark = required.includes(name) ? "" : "?";
    return `  ${name}${mark}: ${typeOf(field).join(" | ")};`;
  });
  return [
    "/** What an event is about. */",
    `export type EventType = ${typeOf(event_type).join(" | ")};`,
    "",
    "/** An event as it is sent. docs/fields.md says what each field means. */",
    "export interface CollectorEvent {",
    "  event_type: EventType;",
    ...lines,
    "}",
    "",
  ].join("\n");
}
