// Checks of options: a wrong one is refused where it is given, and not where it does harm.

import { BillingConfiguration } from "./errors.js";

/** Longest time that a timer of Node's can wait; a longer one would end at once. */
export const TIMEOUT_MAX_MS = 2 ** 31 - 1;
/** Longest text of a property of AMQP, in bytes, with room for what is added to it. */
const NAME_MAX = 200;

/** Return a whole number from `least` to `most`; throw for another. */
export function requireCount(option: string, value: number, most: number, least = 1): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new BillingConfiguration(`${option}: ${value} is no whole number from ${least} to ${most}`);
}

/** Return a name that fits a property; throw for one that is empty or too long. */
export function requireName(option: string, value: string): string {
  if (value !== "" && Buffer.byteLength(value) <= NAME_MAX) return value;
  throw new BillingConfiguration(`${option}: give a name of 1 to ${NAME_MAX} bytes`);
}
