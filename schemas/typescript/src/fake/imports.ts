// Accounts of another system in the fake: what came in and what went, posted as entries that add up to what is
// left. A lot is credited with all that it was granted, and what is not left of it is taken at once.

import type { ImportedLot, ImportedPayment, ImportedTotals } from "../generated/contract.js";
import { iso } from "../formats.js";
import type { FakeAccount } from "./account.js";
import { monthAt } from "./calendar.js";
import type { FullCatalog } from "./catalog.js";
import { applied, rejected, timeOf } from "./decisions.js";
import type { Decision, Of } from "./decisions.js";
import { COUNTER_OF } from "./lots.js";
import type { Operation, Source } from "./lots.js";
import { compareBalance } from "./notices.js";
import type { FakePayments } from "./payments.js";

export type Import = Of<"account.import">;
type Sums = Record<keyof ImportedTotals, number>;

/** Counters that give tokens, each with the source of a lot that is closed from the beginning. */
const CAME: Readonly<Record<string, Source>> = {
  allocation: "allocation",
  purchases: "purchase",
  bonus: "bonus",
  refunds: "refund",
  adjustments: "adjustment",
  reversals: "purchase",
};

/** Totals by the source of the lots that they count. */
const TOTAL_OF: Partial<Record<Source, keyof Sums>> = {
  allocation: "allocated",
  purchase: "purchased",
  purchase_bonus: "bonus",
  bonus: "bonus",
  refund: "refunded",
  adjustment: "adjusted",
};

/** Return the period that the account was in. */
export function presentPeriod({ anchor, asOf }: Import) {
  return monthAt(Date.parse(anchor), Date.parse(asOf));
}

/** Return the reason to refuse an import; undefined where it is good. */
export function importRefusal(command: Import, catalog: FullCatalog): Decision | undefined {
  const { tier, quotas = [], lots = [] } = command;
  if (!catalog.tiers.some(({ id }) => id === tier)) return rejected("unknown_tier", { tier });
  const unknown = quotas.find(({ meter }) => quotaOf(meter, catalog) === undefined);
  if (unknown !== undefined) return rejected("unknown_meter", { meter: unknown.meter });
  const { end } = presentPeriod(command);
  const long = lots.find(
    ({ source, expiresAt }) => source === "allocation" && (timeOf(expiresAt) ?? end) > end,
  );
  if (long === undefined) return undefined;
  const [expiresAt, periodEnd] = [iso(timeOf(long.expiresAt)!), iso(end)];
  return rejected("allocation_outlasts_period", { expiresAt, periodEnd });
}

/** Return the quota that a meter counts against, or that has this name. */
function quotaOf(meter: string, { meters }: FullCatalog): string | undefined {
  const rule = meters.find(({ id }) => id === meter);
  if (rule !== undefined) return rule.quota;
  return meter === "free_upload" || meters.some(({ quota }) => quota === meter) ? meter : undefined;
}

/** Post all that the account had; each payment is an operation of its own. */
export function importAccount(
  account: FakeAccount,
  command: Import,
  operation: Operation,
  paid: readonly Operation[],
  { catalog, payments }: { catalog: FullCatalog; payments: FakePayments },
): Decision {
  const past = new Past(account, command);
  (command.payments ?? []).forEach((payment, place) => {
    bringPayment(account, command, payment, paid[place]!, past, payments);
  });
  const { openedAt, quotas = [], tier } = command;
  operation.occurredAt = Date.parse(openedAt);
  bringLots(account, command, operation, past);
  past.owe(operation, Date.parse(openedAt));
  const period = presentPeriod(command);
  for (const { meter, used } of quotas) if (used > 0) account.count(quotaOf(meter, catalog)!, used, period);
  compareBalance(account); // an account that comes below a mark has not fallen to it
  const left = sum(ownLots(command).map(({ tokens }) => tokens));
  const [periodStart, periodEnd] = [iso(period.start), iso(period.end)];
  return applied("account_imported", left, { tier, periodStart, periodEnd });
}

/** Post a payment as it was taken, and take what is not left of it. */
function bringPayment(
  account: FakeAccount,
  command: Import,
  payment: ImportedPayment,
  operation: Operation,
  past: Past,
  payments: FakePayments,
): void {
  const { referenceId, amountMinor, currency, tokens: baseTokens, bonusTokens = 0, paidAt } = payment;
  const occurredAt = Date.parse(paidAt);
  const of = { referenceId, userId: account.userId, isOfPeriod: false, operation, occurredAt };
  const brought = payments.add({ ...of, amountMinor, currency, baseTokens, bonusTokens });
  payments.names.bind(brought, [referenceId]);
  const left = (command.lots ?? []).filter((lot) => lot.paymentReferenceId === referenceId);
  const leftOf = (source: Source): ImportedLot | undefined => left.find((lot) => lot.source === source);
  const parent = past.bring(operation, "purchase", baseTokens, occurredAt, { lot: leftOf("purchase") });
  if (bonusTokens === 0) return;
  past.bring(operation, "purchase_bonus", bonusTokens, occurredAt, { lot: leftOf("purchase_bonus"), parent });
}

/** Post the lots that belong to no payment, then what came in beside all lots. */
function bringLots(account: FakeAccount, command: Import, operation: Operation, past: Past): void {
  const since = Date.parse(command.openedAt);
  const isLast = ({ source }: ImportedLot): number => Number(source === "carried_over");
  for (const lot of ownLots(command).sort((one, other) => isLast(one) - isLast(other))) {
    past.bring(operation, lot.source, brought(lot), since, { lot });
    const isPresent = timeOf(lot.expiresAt) === account.calendar.grantedUntil;
    if (lot.source === "allocation" && isPresent) account.periodGranted += brought(lot);
  }
  for (const [counter, source] of Object.entries(CAME)) {
    const rest = past.came[counter]!;
    if (rest > 0) past.bring(operation, source, rest, since, { counter });
  }
}

function ownLots({ lots = [] }: Import): ImportedLot[] {
  return lots.filter(({ paymentReferenceId }) => paymentReferenceId == null);
}

/** Return the tokens that a lot was granted. */
function brought({ granted, tokens }: ImportedLot): number {
  return granted ?? tokens;
}

/** Return the tokens that lots and payments were granted, by total, and those of an unknown origin. */
function named(command: Import): { sums: Sums; unknown: number } {
  const sums = {
    allocated: 0,
    purchased: 0,
    bonus: 0,
    refunded: 0,
    adjusted: 0,
    used: 0,
    expired: 0,
    reversed: 0,
  };
  let unknown = 0;
  for (const lot of ownLots(command)) {
    const total = TOTAL_OF[lot.source];
    if (total === undefined) unknown += brought(lot);
    else sums[total] += brought(lot);
  }
  for (const { tokens, bonusTokens = 0 } of command.payments ?? []) {
    sums.purchased += tokens;
    sums.bonus += bonusTokens;
  }
  return { sums, unknown };
}

/** Return the totals; where none are given, those that lots, payments and debt come to. */
function lifetime(command: Import): Sums {
  const { sums, unknown } = named(command);
  if (command.totals != null)
    return { ...Object.fromEntries(Object.keys(sums).map((name) => [name, 0])), ...command.totals } as Sums;
  const balance = balanceOf(command);
  const came = unknown + sum(Object.values(sums));
  return { ...sums, adjusted: sums.adjusted + unknown, used: came - balance };
}

/** Return what is wrong with the sums of an import: they must come to its balance. */
export function sumsOff(command: Import): string | undefined {
  const { allocated, purchased, bonus, refunded, adjusted, used, expired, reversed } = lifetime(command);
  const balance = balanceOf(command);
  const came = allocated + purchased + bonus + refunded + adjusted - used - expired - reversed;
  if (came === balance) return undefined;
  const sums = `totals come to a balance of ${came}, but lots and debt to ${balance}`;
  return `${sums}: the difference is ${came - balance}`;
}

function balanceOf({ lots = [], debt = 0 }: Import): number {
  return sum(lots.map(({ tokens }) => tokens)) - debt;
}

/** Tokens that came and went before, by counter, as far as they are not posted yet. */
class Past {
  readonly came: Record<string, number>;
  readonly #went: Record<string, number>;

  constructor(
    private readonly account: FakeAccount,
    command: Import,
  ) {
    const totals = lifetime(command);
    const corrected = Math.max(totals.adjusted, named(command).sums.adjusted, 0);
    this.came = {
      allocation: totals.allocated,
      purchases: totals.purchased,
      bonus: totals.bonus,
      refunds: totals.refunded,
      adjustments: corrected,
      reversals: Math.max(-totals.reversed, 0),
    };
    this.#went = {
      usage: totals.used,
      expiry: totals.expired,
      reversals: Math.max(totals.reversed, 0),
      adjustments: corrected - totals.adjusted,
    };
  }

  /** Open a lot with all that it was granted, and take what is not left: all, without `lot`; return its number. */
  bring(
    operation: Operation,
    source: Source,
    granted: number,
    since: number,
    more: { lot?: ImportedLot | undefined; parent?: number; counter?: string },
  ): number {
    const { account } = this;
    const { lot, parent, counter = source === "carried_over" ? undefined : COUNTER_OF[source] } = more;
    const effectiveAt = Math.min(since, account.clock());
    const [expiresAt, priority] = [timeOf(lot?.expiresAt), lot?.priority];
    const credit = { source, tokens: granted, effectiveAt, expiresAt, priority, parent };
    const opened = account.openLot(operation, credit);
    const from = counter === undefined ? Object.keys(CAME) : [counter];
    for (const [by, tokens] of poured(this.came, granted, from)) account.post(operation, by, tokens, opened);
    for (const [by, tokens] of this.#takes(granted - (lot?.tokens ?? 0)))
      account.post(operation, by, -tokens, opened);
    return opened.number;
  }

  /** Post what was taken beyond all that came in: the debt. */
  owe(operation: Operation, since: number): void {
    const { account } = this;
    const lacking = this.#went.usage! + this.#went.expiry!;
    if (lacking > 0) {
      // Usage takes from a lot: it is lent the tokens.
      const effectiveAt = Math.min(since, account.clock());
      const lent = account.openLot(operation, { source: "carried_over", tokens: lacking, effectiveAt });
      account.post(operation, "transfers", -lacking);
      account.post(operation, "transfers", lacking, lent);
      for (const [by, tokens] of this.#takes(lacking)) account.post(operation, by, -tokens, lent);
    }
    for (const [by, tokens] of this.#takes(sum(Object.values(this.#went))))
      account.owe(operation, by, tokens);
  }

  #takes(tokens: number): [string, number][] {
    return poured(this.#went, tokens, Object.keys(this.#went));
  }
}

/** Return parts of `sums` in order, so many tokens in all, and take them off. */
function poured(sums: Record<string, number>, tokens: number, order: readonly string[]): [string, number][] {
  let left = tokens;
  return order.flatMap((counter) => {
    const part = Math.min(sums[counter]!, left);
    sums[counter]! -= part;
    left -= part;
    return part === 0 ? [] : [[counter, part] as [string, number]];
  });
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, one) => all + one, 0);
}
