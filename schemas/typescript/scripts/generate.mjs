// Writes src/generated/ from ../contract/messages.schema.json: the types, and a method for each command. Run by
// `npm run generate`.
//
// What is sent is exact, what is received is open: any code may come, and fields of a later version.

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("../../contract/messages.schema.json", import.meta.url);
const GENERATED = new URL("../src/generated/", import.meta.url);
const BANNER = "// Written by `npm run generate` from ../contract/messages.schema.json. Do not edit.";

const METADATA = "{ [key: string]: string | number | bigint | boolean | null }";
/** Commands without a method: the scheduler's own. */
const WITHOUT_METHOD = ["SettleAccount"];

const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } });
const { $defs: definitions } = JSON.parse(await readFile(SCHEMA, "utf8"));
await write("methods.ts", methodsOf(definitions));
await write("contract.ts", await typesOf(definitions)); // last: it takes from the definitions

/** Write a file of src/generated; with `--check` only compare. */
async function write(name, text) {
  const file = new URL(name, GENERATED);
  if (!values.check) {
    await writeFile(file, text);
  } else if ((await readFile(file, "utf8")) !== text) {
    console.error(`src/generated/${name} is not of the present contract: npm run generate`);
    process.exitCode = 1;
  }
}

/** Return the class that has a method for each command. */
function methodsOf(definitions) {
  const names = definitions.Command.oneOf
    .map(({ $ref }) => $ref.split("/").at(-1))
    .filter((name) => !WITHOUT_METHOD.includes(name));
  const methods = names.map((name) => methodOf(name, definitions[name]));
  return `${BANNER}

import type { Result } from "../outcomes.js";
import type { CommandOptions, Fields } from "../vocabulary.js";
import type * as contract from "./contract.js";

/** The methods that send a command each and return its result. */
export abstract class Methods {
  /** Send a command and return its result. */
  abstract request(command: contract.Command, options?: CommandOptions): Promise<Result>;
${methods.join("")}}
`;
}

/** Return the method of a command, named as its definition without the noun: `deduct` of DeductUsage. */
function methodOf(definition, { description, properties }) {
  const name = definition.replace(/^Usage|(Usage|Credit)$/g, "");
  const about = description.replaceAll(/\n/g, "\n   * ").replaceAll(/ +$/gm, "");
  return `
  /** ${about} */
  ${name[0].toLowerCase()}${name.slice(1)}(fields: Fields<contract.${definition}>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "${properties.type.const}", ...fields }, options);
  }
`;
}

/** Return the types of all messages and of what they hold. */
async function typesOf(definitions) {
  for (const definition of Object.values(definitions)) prepare(definition);
  const text = await compile({ $defs: definitions, type: "object" }, "Unused", {
    bannerComment: BANNER,
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
