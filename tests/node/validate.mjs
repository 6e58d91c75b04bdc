// Validates JSON values by definitions of a schema, with ajv in strict mode, until its input ends.
//
// A line of standard input: {"schema": …, "formats": true, "checks": [["<ref>", value], …]}; a ref begins with "#"
// or is "". A line of standard output for it: for each check null where the value is valid, else the text of its
// errors.

import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { createInterface } from "node:readline";

const compilers = new Map();

/** Returns a function that compiles a ref of the schema once. */
function compilerOf(schema, formats) {
  const key = JSON.stringify([formats, schema]);
  if (!compilers.has(key)) compilers.set(key, newCompiler(schema, formats));
  return compilers.get(key);
}

function newCompiler(schema, formats) {
  const ajv = new Ajv({ strict: true, allErrors: true, validateFormats: formats });
  if (formats) addFormats(ajv);
  else ajv.addFormat("date-time", true).addFormat("date", true);
  ajv.addSchema(schema);
  const validators = new Map();
  const compile = (ref) => {
    if (!validators.has(ref)) validators.set(ref, ajv.compile({ $ref: schema.$id + ref }));
    return validators.get(ref);
  };
  return { ajv, compile };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { schema, formats, checks } = JSON.parse(line);
  const { ajv, compile } = compilerOf(schema, formats);
  const results = checks.map(([ref, value]) => {
    const validate = compile(ref);
    return validate(value) ? null : ajv.errorsText(validate.errors);
  });
  process.stdout.write(`${JSON.stringify(results)}\n`);
}
