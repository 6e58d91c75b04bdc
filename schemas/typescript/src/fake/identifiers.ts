// Rule of new ids, as the worker has it: no two look alike.

import type { Command } from "../generated/contract.js";

/** Default-ignorable characters, and white space other than a space. */
const UNTAKEN =
  /[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u034f\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/u;
const NFC =
  "is not in Unicode's form NFC, and so would be a second id that looks the same; " +
  "normalize it: unicodedata.normalize('NFC', id), in JavaScript id.normalize()";

/** Fields that hold an id, in the order in which the worker looks at them; `meter` is one in a quota alone. */
const IDS = [
  ...["referenceId", "userId", "openTier", "originalReferenceId", "paymentReferenceId", "refundReferenceId"],
  ...["disputeId", "packageId", "alsoKnownAs", "tier"],
];
const PARTS = ["lots", "quotas", "payments", "payment"];

export interface IdFault {
  readonly field: string;
  readonly message: string;
}

/** Return the first field whose id breaks the rule, and the text for its producer. */
export function idFaultIn(command: Command, place = ""): IdFault | undefined {
  for (const [path, value] of idsOf(command, IDS)) {
    const fault = faultOf(value);
    if (fault !== undefined) return { field: place + path, message: `${place}${path}: ${fault}` };
  }
  return undefined;
}

function faultOf(id: string): string | undefined {
  const found = UNTAKEN.exec(id)?.[0];
  if (found !== undefined) {
    const point = found.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
    return `holds U+${point}, which is invisible or a white space other than a space; leave it out`;
  }
  return id === id.normalize("NFC") ? undefined : NFC;
}

function* idsOf(part: object, names: readonly string[], place = ""): Generator<[string, string]> {
  const fields = new Map<string, unknown>(Object.entries(part));
  for (const name of names) yield* textsIn(fields.get(name), place + name);
  for (const name of PARTS) {
    const inner = name === "quotas" ? [...IDS, "meter"] : IDS;
    const [one, at] = [fields.get(name), `${place}${name}.`];
    if (Array.isArray(one))
      for (const [index, item] of one.entries()) yield* idsOf(item, inner, `${at}${index}.`);
    else if (typeof one === "object" && one !== null) yield* idsOf(one, inner, at);
  }
}

function* textsIn(value: unknown, place: string): Generator<[string, string]> {
  if (typeof value === "string") yield [place, value];
  if (Array.isArray(value))
    for (const [index, item] of value.entries()) yield* textsIn(item, `${place}.${index}`);
}
