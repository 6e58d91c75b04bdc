// JSON without rounding: a number holds whole numbers up to 2^53 − 1, and the ledger's go up to 2^63 − 1.

import { parse, stringify } from "lossless-json";

import { BillingNumberTooLarge, BillingRefused } from "./errors.js";

/** Return the body of a message. A number that is no exact whole number is refused; a bigint is taken. */
export function encode(message: object): Buffer {
  for (const [path, value] of leavesOf(message)) {
    if (typeof value !== "number" || Number.isSafeInteger(value)) continue;
    const way = Number.isInteger(value) ? "above 2^53 − 1; give a bigint" : "no whole number";
    throw new BillingRefused(`${path}: ${value} is ${way}`, path, "invalid_field");
  }
  return Buffer.from(stringify(message) ?? "");
}

/** Return the object of a body. An amount above 2^53 − 1 throws BillingNumberTooLarge; inside of `metadata`,
 * whose values are the caller's own, it is a bigint. */
export function decode<T>(body: Buffer): T {
  const text = body.toString("utf8");
  if (!SIXTEEN_DIGITS.test(text)) return JSON.parse(text) as T;
  const found = parse(text, undefined, exactNumber);
  for (const [path, value] of leavesOf(found)) {
    if (typeof value !== "bigint" || IN_METADATA.test(path)) continue;
    throw new BillingNumberTooLarge(`${path} is above 2^53 − 1; the error's body has it as a bigint`, found);
  }
  return found as T;
}

/** 2^53 has sixteen digits: a text without so many in a row has no larger number. */
const SIXTEEN_DIGITS = /\d{16}/;
const IN_METADATA = /(^|\.)metadata\./;

function exactNumber(text: string): number | bigint {
  const value = Number(text);
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(text) : value;
}

/** Return the values of a message that hold no others, each with its path, such as `items.3.tokens`. */
function* leavesOf(value: unknown, path = ""): Generator<[string, unknown]> {
  if (typeof value !== "object" || value === null) return yield [path, value];
  for (const [name, inner] of Object.entries(value)) yield* leavesOf(inner, path ? `${path}.${name}` : name);
}
