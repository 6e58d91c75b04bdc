// Parses an AsyncAPI document with the official parser.
//
// Standard input: the document. Standard output: its diagnostics, each with severity, message and path.

import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";

const SEVERITIES = ["error", "warning", "information", "hint"];

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
const found = diagnostics.map(({ severity, message, path, code }) => ({
  severity: SEVERITIES[severity],
  code,
  message,
  path: path.join("."),
}));
const messages = document === undefined ? [] : document.allMessages().all().map((message) => message.name());
process.stdout.write(JSON.stringify({ diagnostics: found, messages }));
