// One account of the fake: lots, holds, quotas, a period, and the entries that explain its balance.

import type { CatalogTier, Totals, Transaction } from "./generated/contract.js";
import { iso } from "./formats.js";

/** What entries say about the operation that posted them; its code is known once it is decided. */
export type Operation = Pick<Transaction, "transactionId" | "referenceId" | "type"> & {
  code: string;
} & Partial<Pick<Transaction, "feature" | "description" | "metadata">>;
export type Entry = Omit<Transaction, keyof Operation> & { readonly operation: Operation };

export interface Hold {
  readonly tokens: number;
  expiresAt: number;
  state: "open" | "settled" | "released" | "expired";
}

export interface Lot {
  readonly number: number;
  readonly source: string;
  readonly priority: number;
  /** Operation that made it. */
  readonly operation: Operation;
  expiresAt: number;
  tokens: number;
  /** Tokens that expired unspent. */
  lapsed: number;
}

/** Credit that takes effect later. */
interface Scheduled {
  readonly at: number;
  readonly tokens: number;
  readonly operation: Operation;
  readonly credit: () => void;
}

/** Counters of entries by the names of their sums. */
const COUNTERS: Record<keyof Totals, string> = {
  allocated: "allocation",
  purchased: "purchases",
  bonus: "bonus",
  refunded: "refunds",
  adjusted: "adjustments",
  used: "usage",
  expired: "expiry",
  reversed: "reversals",
};
/** Sums of what was taken, which entries have below zero. */
const TAKEN = new Set(["used", "expired", "reversed"]);
/** Priorities of lots by source, lowest first; the others have 50. */
const PRIORITIES: Record<string, number> = {
  allocation: 10,
  bonus: 20,
  purchase_bonus: 20,
  refund: 30,
  adjustment: 40,
};

export class FakeAccount {
  readonly entries: Entry[] = [];
  readonly holds = new Map<string, Hold>();
  readonly quotaUsed = new Map<string, number>();
  debt = 0;
  /** Since when the account is frozen; undefined where it isn't. */
  frozenAt: number | undefined;
  #unfrozenAt = -Infinity;
  /** Number of the present period; each is a month counted from the opening. */
  period = 0;
  granted = 0;
  grantedPeriod = 0;
  endsAt = Infinity;
  scheduled: Scheduled[] = [];
  #lots: Lot[] = [];
  #lotsMade = 0;

  constructor(
    readonly userId: string,
    public tier: CatalogTier,
    readonly openedAt: number,
  ) {}

  // -- sums ------------------------------------------------------------------------------------------------

  get balance(): number {
    return this.#lots.reduce((sum, lot) => sum + lot.tokens, -this.debt);
  }

  get held(): number {
    return [...this.holds.values()].reduce((sum, hold) => sum + (hold.state === "open" ? hold.tokens : 0), 0);
  }

  get available(): number {
    return this.balance - this.held;
  }

  get lots(): readonly Lot[] {
    return this.#lots;
  }

  canPay(tokens: number): boolean {
    return tokens <= Math.max(this.available, 0);
  }

  get totals(): Totals {
    const sums = Object.entries(COUNTERS).map(([name, counter]) => {
      const sum = sumOf(this.entries.filter((entry) => entry.counter === counter));
      return [name, TAKEN.has(name) ? 0 - sum : sum];
    });
    return Object.fromEntries(sums) as Totals;
  }

  get lotsBySource(): Record<string, number> {
    const found: Record<string, number> = {};
    for (const { source, tokens } of this.#lots)
      if (tokens > 0) found[source] = (found[source] ?? 0) + tokens;
    return found;
  }

  limit(quota: string): number {
    return quota === "free_upload" ? this.tier.freeUploadBytes : (this.tier.freeUnits[quota] ?? 0);
  }

  used(quota: string): number {
    return this.quotaUsed.get(quota) ?? 0;
  }

  free(quota: string): number {
    return Math.max(this.limit(quota) - this.used(quota), 0);
  }

  // -- tokens ----------------------------------------------------------------------------------------------

  /** Credit a lot; a debt is repaid first. */
  credit(
    operation: Operation,
    counter: string,
    tokens: number,
    now: number,
    made: { source: string; expiresAt?: number | undefined; priority?: number | null | undefined },
  ): void {
    const { source, expiresAt = Infinity } = made;
    const [number, priority] = [(this.#lotsMade += 1), made.priority ?? PRIORITIES[source] ?? 50];
    const lot: Lot = { number, source, priority, expiresAt, operation, tokens: 0, lapsed: 0 };
    this.#lots.push(lot);
    this.#lots.sort((one, other) => one.priority - other.priority || one.expiresAt - other.expiresAt);
    const repaid = Math.min(this.debt, tokens);
    this.post(operation, counter, repaid, now);
    this.post(operation, counter, tokens - repaid, now, lot);
  }

  /** Take tokens in burn order, an entry for each lot; what no lot has becomes debt. */
  take(operation: Operation, counter: string, tokens: number, now: number): void {
    let left = tokens;
    for (const lot of this.#lots) {
      const part = Math.min(lot.tokens, left);
      left -= part;
      this.post(operation, counter, -part, now, lot);
    }
    this.post(operation, counter, -left, now);
  }

  /** Expire the lots whose time is over. */
  expireOver(operation: Operation, now: number): void {
    this.#expire(operation, now, (lot) => lot.expiresAt <= now);
  }

  /** Expire the lots that `isOver` names; return their tokens. */
  #expire(operation: Operation, now: number, isOver: (lot: Lot) => boolean): number {
    const over = this.#lots.filter((lot) => lot.tokens > 0 && isOver(lot));
    const tokens = over.reduce((sum, lot) => sum + lot.tokens, 0);
    for (const lot of over) {
      lot.lapsed += lot.tokens;
      this.post(operation, "expiry", -lot.tokens, now, lot);
    }
    return tokens;
  }

  /** Post one entry to the account and a lot, or else to the debt: the only place where a balance changes. */
  post(operation: Operation, counter: string, amount: number, now: number, lot?: Lot): void {
    if (amount === 0) return;
    const [balanceBefore, at] = [this.balance, iso(now)];
    if (lot === undefined) this.debt -= amount;
    else lot.tokens += amount;
    const [balanceAfter, sequence] = [this.balance, this.entries.length + 1];
    const sums = { counter, amount, balanceBefore, balanceAfter, sequence };
    const of = { lot: lot?.number, source: lot?.source };
    this.entries.push({ operation, status: "applied", ...sums, ...of, occurredAt: at, recordedAt: at });
  }

  // -- freezing --------------------------------------------------------------------------------------------

  /** Freeze the account as of `at`, unless it was let go later. */
  freeze(at: number): void {
    if (this.#unfrozenAt <= at) this.frozenAt = Math.max(at, this.frozenAt ?? at);
  }

  /** Let the account be used again as of `at`, unless it was frozen then or later. */
  unfreeze(at: number): void {
    this.#unfrozenAt = Math.max(at, this.#unfrozenAt);
    if (this.frozenAt !== undefined && this.frozenAt < at) this.frozenAt = undefined;
  }

  // -- periods ---------------------------------------------------------------------------------------------

  periodStart(number = this.period): number {
    return monthsAfter(this.openedAt, number);
  }

  get periodEnd(): number {
    return this.periodStart(this.period + 1);
  }

  /** Return the number of the period that contains a time. */
  periodAt(time: number): number {
    let number = this.period;
    while (this.periodStart(number + 1) <= time) number += 1;
    while (this.periodStart(number) > time) number -= 1;
    return number;
  }

  /** Begin a period and grant its allocation, which ends with it. */
  grant(operation: Operation, period: number, now: number): void {
    if (period > this.period) this.#beginPeriod();
    [this.grantedPeriod, this.granted] = [period, this.tier.monthlyTokens];
    this.allocate(operation, this.tier.monthlyTokens, now);
  }

  allocate(operation: Operation, tokens: number, now: number): void {
    if (tokens === 0) return;
    this.credit(operation, "allocation", tokens, now, { source: "allocation", expiresAt: this.periodEnd });
  }

  /** End the allocation of the present period now; return its tokens. */
  endAllocation(operation: Operation, now: number): number {
    const own = this.#lots.filter((lot) => lot.source === "allocation" && lot.expiresAt > now);
    for (const lot of own) lot.expiresAt = now;
    return this.#expire(operation, now, (lot) => own.includes(lot));
  }

  /** Post what time alone brings about until `now`: ends of holds and lots, free periods, scheduled credit. */
  postDue(operation: Operation, now: number): void {
    for (const hold of this.holds.values())
      if (hold.state === "open" && hold.expiresAt <= now) hold.state = "expired";
    while (this.periodEnd <= now) this.#turnPeriod(operation, this.periodEnd);
    this.expireOver(operation, now);
    const due = this.scheduled.filter(({ at }) => at <= now);
    this.scheduled = this.scheduled.filter(({ at }) => at > now);
    for (const { credit } of due) credit();
    this.expireOver(operation, now); // credit that began and ended unseen
  }

  /** Fail where tokens of an operation haven't taken effect: the fake can't take them back. */
  requireNothingAhead(operation: Operation): void {
    if (this.scheduled.some((one) => one.operation === operation))
      throw new Error("FakeBillingClient can't take back a period that was paid and hasn't begun");
  }

  #turnPeriod(operation: Operation, start: number): void {
    this.expireOver(operation, start);
    if (this.tier.autoRenew && start < this.endsAt) this.grant(operation, this.period + 1, start);
    else this.#beginPeriod();
  }

  #beginPeriod(): void {
    this.period += 1;
    this.quotaUsed.clear();
  }
}

export function sumOf(entries: readonly Pick<Entry, "amount">[]): number {
  return entries.reduce((sum, entry) => sum + entry.amount, 0);
}

/** Return the moment some months later; a shorter month's last day stands for a day that it lacks. */
function monthsAfter(time: number, months: number): number {
  const date = new Date(time);
  const day = date.getUTCDate();
  date.setUTCMonth(date.getUTCMonth() + months);
  if (date.getUTCDate() !== day) date.setUTCDate(0);
  return date.getTime();
}
