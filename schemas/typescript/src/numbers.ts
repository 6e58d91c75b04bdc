// JSON without rounding: a number holds whole numbers up to 2^53 − 1, and the ledger's go up to 2^63 − 1.

import { parse, stringify } from "lossless-json";

import { BillingNumberTooLarge, BillingRefused } from "./errors.js";

/** Return the body of a message. A number that is no exact whole number is refused; a bigint is taken. */
export function encode(message: object): Buffer {
  refuseInexact(message, "");
  return Buffer.from(stringify(message) ?? "");
}

function refuseInexact(value: unknown, path: string): void {
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    const way = Number.isInteger(value) ? "above 2^53 − 1; give a bigint" : "no whole number";
    throw new BillingRefused(`${path}: ${value} is ${way}`, path, "invalid_field");
  }
  if (typeof value === "object" && value !== null) {
    for (const [name, inner] of Object.entries(value)) refuseInexact(inner, path ? `${path}.${name}` : name);
  }
}

/** Return the object of a body. An amount above 2^53 − 1 throws BillingNumberTooLarge; inside of `metadata`,
 * whose values are the caller's own, it is a bigint. */
export function decode<T>(body: Buffer): T {
  const text = body.toString("utf8");
  if (!SIXTEEN_DIGITS.test(text)) return JSON.parse(text) as T;
  const found = parse(text, undefined, exactNumber);
  const path = pathOfBigint(found, "");
  if (path !== undefined) {
    throw new BillingNumberTooLarge(`${path} is above 2^53 − 1; the error's body has it as a bigint`, found);
  }
  return found as T;
}

/** 2^53 has sixteen digits: a text without so many in a row has no larger number. */
const SIXTEEN_DIGITS = /\d{16}/;

function exactNumber(text: string): number | bigint {
  const value = Number(text);
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(text) : value;
}

function pathOfBigint(value: unknown, path: string): string | undefined {
  if (typeof value === "bigint") return path;
  if (typeof value !== "object" || value === null) return undefined;
  for (const [name, inner] of Object.entries(value)) {
    if (name === "metadata") continue;
    const found = pathOfBigint(inner, path ? `${path}.${name}` : name);
    if (found !== undefined) return found;
  }
  return undefined;
}
