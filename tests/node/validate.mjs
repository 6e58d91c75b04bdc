// Validates JSON values by definitions of a schema, with ajv in strict mode.
//
// Standard input: {"schema": …, "formats": true, "checks": [["<ref>", value], …]}; a ref begins with "#" or is "".
// Standard output: for each check null where the value is valid, else the text of its errors.

import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { readFileSync } from "node:fs";

const { schema, formats, checks } = JSON.parse(readFileSync(0, "utf8"));
const ajv = new Ajv({ strict: true, allErrors: true, validateFormats: formats });
if (formats) addFormats(ajv);
else ajv.addFormat("date-time", true).addFormat("date", true);
ajv.addSchema(schema);

const validators = new Map();
function validatorOf(ref) {
  if (!validators.has(ref)) validators.set(ref, ajv.compile({ $ref: schema.$id + ref }));
  return validators.get(ref);
}

const results = checks.map(([ref, value]) => {
  const validate = validatorOf(ref);
  return validate(value) ? null : ajv.errorsText(validate.errors);
});
process.stdout.write(JSON.stringify(results));
