// Writes src/generated/contract.ts: the types of ../contract/messages.schema.json. Run by `npm run generate`.
//
// What is sent is exact, what is received is open: any code may come, and fields of a later version.

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("../../contract/messages.schema.json", import.meta.url);
const TYPES = new URL("../src/generated/contract.ts", import.meta.url);

const METADATA = "{ [key: string]: string | number | bigint | boolean | null }";

const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } });
const types = await generated(JSON.parse(await readFile(SCHEMA, "utf8")));
if (!values.check) {
  await writeFile(TYPES, types);
} else if ((await readFile(TYPES, "utf8")) !== types) {
  console.error("src/generated/contract.ts is not of the present contract: npm run generate");
  process.exitCode = 1;
}

async function generated(schema) {
  for (const definition of Object.values(schema.$defs)) prepare(definition);
  const text = await compile({ $defs: schema.$defs, type: "object" }, "Unused", {
    bannerComment: "// Written by `npm run generate` from ../contract/messages.schema.json. Do not edit.",
    unreachableDefinitions: true,
    ignoreMinAndMaxItems: true,
    additionalProperties: false,
    printWidth: 110,
  });
  return text
    .replace(/export interface Unused \{\}\n/, "")
    .replace(
      / \*\n \* This interface was referenced by `Unused`'s JSON-Schema\n \* via the `definition` "\w+"\.\n/g,
      "",
    )
    .replace(
      /\/\*\*\n \* This interface was referenced by `Unused`'s JSON-Schema\n \* via the `definition` "\w+"\.\n \*\/\n/g,
      "",
    )
    .replace(/: (\w*Code|DeadLetterReason) \| string;/g, ": $1 | (string & {});")
    .replace(/^( +\w+\?: [^\n]+);$/gm, "$1 | undefined;");
}

/** Leave out of an object what says no type: rules between its fields, and that more fields may come. */
function prepare(definition) {
  if (definition.type !== "object") return;
  if (definition.properties?.metadata?.type === "object")
    definition.properties.metadata = { tsType: METADATA };
  if (definition.properties === undefined) {
    definition.tsType = METADATA;
    return;
  }
  delete definition.anyOf;
  delete definition.oneOf;
  delete definition.allOf;
  if (definition.additionalProperties === true) definition.additionalProperties = false;
}
