// Usage of the fake: tokens at once, or by a meter with free units first.

import type { FakeAccount } from "./account.js";
import { applied, rejected, short } from "./decisions.js";
import type { Case, Decision, Of } from "./decisions.js";
import type { Period } from "./calendar.js";
import type { FullCatalog } from "./catalog.js";

const UPLOAD = "free_upload";

/** Free units of a usage, with the quota and the period that they came from. */
export interface Counted {
  readonly quota: string;
  readonly period: Period;
  left: number;
}

interface Price {
  readonly quota: string;
  readonly tokens: number;
  readonly freeQuantity: number;
  readonly chargedQuantity: number;
}

/** Price a usage of a meter; undefined where the catalog has none such. */
export function priced(
  { meters }: FullCatalog,
  meter: string,
  quantity: number,
  account: FakeAccount,
): Price | undefined {
  const rule = meters.find((one) => one.id === meter);
  if (rule === undefined) return undefined;
  const freeQuantity = Math.min(account.free(rule.quota), quantity);
  const chargedQuantity = quantity - freeQuantity;
  const round = { up: Math.ceil, down: Math.floor }[rule.rounding as string] ?? halfEven;
  const exact = round((chargedQuantity * rule.tokens) / rule.per);
  const tokens = chargedQuantity === 0 ? 0 : Math.max(exact, rule.minimumTokens);
  return { quota: rule.quota, tokens, freeQuantity, chargedQuantity };
}

export function halfEven(value: number): number {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

export function deduct({ tokens }: Of<"usage.deduct">, { account, operation }: Case): Decision {
  if (!account.canPay(tokens)) return short(tokens, account.available);
  account.take(operation, "usage", tokens);
  return applied("tokens_deducted", tokens);
}

export function record(command: Of<"usage.record">, { ledger, account, operation }: Case): Decision {
  const { referenceId, meter, quantity } = command;
  const price = priced(ledger.catalog, meter, quantity, account);
  if (price === undefined) return rejected("unknown_meter", { meter });
  const { quota, tokens, ...units } = price;
  const metered = { meter, quantity, ...units };
  if (!account.canPay(tokens)) return short(tokens, account.available, "insufficient_balance", metered);
  if (units.freeQuantity > 0) count(referenceId, quota, units.freeQuantity, account, ledger.counted);
  account.take(operation, "usage", tokens);
  return applied("usage_recorded", tokens, {
    ...metered,
    limit: account.limit(quota),
    used: account.used(quota),
  });
}

export function countUpload(command: Of<"usage.free_upload">, { ledger, account }: Case): Decision {
  const { referenceId, bytes } = command;
  const [limit, used, free] = [account.limit(UPLOAD), account.used(UPLOAD), account.free(UPLOAD)];
  if (bytes > free) return short(bytes, free, "free_upload_limit_exceeded", { used, limit });
  if (bytes > 0) count(referenceId, UPLOAD, bytes, account, ledger.counted);
  return applied("free_upload_counted", bytes, { used: used + bytes, limit });
}

/** Use free units, and remember whose they are: a refund may give them back. */
function count(
  id: string,
  quota: string,
  units: number,
  account: FakeAccount,
  all: Map<string, Counted>,
): void {
  account.count(quota, units);
  all.set(id, { quota, period: account.period, left: units });
}
