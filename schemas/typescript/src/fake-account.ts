// One account of the fake: lots, holds, quotas, a period, and the entries that explain its balance.

import type { Totals, Transaction } from "./generated/contract.js";
import type { Catalog } from "./fake-catalog.js";
import { iso } from "./formats.js";

type Counter = keyof Totals;

interface Lot {
  readonly number: number;
  readonly source: string;
  readonly priority: number;
  readonly expiresAt: number;
  tokens: number;
}

export interface Hold {
  readonly tokens: number;
  expiresAt: number;
  state: "open" | "settled" | "released" | "expired";
}

/** What an entry says about the operation that posted it. */
export type Operation = Pick<Transaction, "transactionId" | "referenceId" | "type" | "code"> &
  Partial<Pick<Transaction, "feature" | "description" | "metadata">>;

/** Names of the sums in entries. */
const COUNTERS: Record<Counter, string> = {
  allocated: "allocation",
  purchased: "purchases",
  bonus: "bonus",
  refunded: "refunds",
  adjusted: "adjustments",
  used: "usage",
  expired: "expiry",
  reversed: "reversals",
};

const PRIORITIES: Record<string, number> = {
  allocation: 10,
  bonus: 20,
  purchase_bonus: 20,
  refund: 30,
  adjustment: 40,
  purchase: 50,
};

export class FakeAccount {
  readonly entries: Transaction[] = [];
  readonly holds = new Map<string, Hold>();
  readonly quotaUsed = new Map<string, number>();
  readonly totals: Totals = {
    allocated: 0,
    purchased: 0,
    bonus: 0,
    refunded: 0,
    adjusted: 0,
    used: 0,
    expired: 0,
    reversed: 0,
  };
  debt = 0;
  /** Number of the present period; each is a month counted from the opening. */
  period = 0;
  granted = 0;
  grantedPeriod = 0;
  endsAt: number | undefined;
  #lots: Lot[] = [];
  #lastLot = 0;
  #scheduled: { at: number; tokens: number; credit: () => void }[] = [];

  constructor(
    readonly userId: string,
    public tier: Catalog["tiers"][number],
    readonly openedAt: number,
  ) {}

  get balance(): number {
    return this.#lots.reduce((sum, lot) => sum + lot.tokens, -this.debt);
  }

  get held(): number {
    return [...this.holds.values()].reduce((sum, hold) => sum + (hold.state === "open" ? hold.tokens : 0), 0);
  }

  get available(): number {
    return this.balance - this.held;
  }

  lotsBySource(): Record<string, number> {
    const found: Record<string, number> = {};
    for (const { source, tokens } of this.#lots)
      if (tokens > 0) found[source] = (found[source] ?? 0) + tokens;
    return found;
  }

  periodStart(number = this.period): number {
    return monthsAfter(this.openedAt, number);
  }

  /** Return the number of the period that contains a time. */
  periodAt(time: number): number {
    let number = this.period;
    while (this.periodStart(number + 1) <= time) number += 1;
    while (this.periodStart(number) > time) number -= 1;
    return number;
  }

  isActive(now: number): boolean {
    return this.endsAt === undefined || now < this.endsAt;
  }

  limit(quota: string): number {
    return quota === "free_upload" ? this.tier.freeUploadBytes : (this.tier.freeUnits[quota] ?? 0);
  }

  free(quota: string): number {
    return Math.max(this.limit(quota) - (this.quotaUsed.get(quota) ?? 0), 0);
  }

  useQuota(quota: string, units: number): void {
    this.quotaUsed.set(quota, (this.quotaUsed.get(quota) ?? 0) + units);
  }

  /** Credit a lot; a debt is repaid first. */
  credit(
    operation: Operation,
    counter: Counter,
    tokens: number,
    now: number,
    lot: { source: string; expiresAt?: number; priority?: number | null | undefined },
  ): void {
    const repaid = Math.min(this.debt, tokens);
    const number = this.#lastLot + 1;
    this.#lastLot = number;
    this.#post(operation, counter, tokens, now, { number, source: lot.source }, () => {
      this.debt -= repaid;
      const priority = lot.priority ?? PRIORITIES[lot.source] ?? 50;
      this.#lots.push({
        number,
        source: lot.source,
        priority,
        expiresAt: lot.expiresAt ?? Infinity,
        tokens: tokens - repaid,
      });
      this.#lots.sort((one, other) => one.priority - other.priority || one.expiresAt - other.expiresAt);
    });
  }

  /** The next scheduled credit; undefined without one. */
  get nextScheduled(): { at: number; tokens: number } | undefined {
    return [...this.#scheduled].sort((one, other) => one.at - other.at)[0];
  }

  /** Tokens that take effect later. */
  get pending(): number {
    return this.#scheduled.reduce((sum, { tokens }) => sum + tokens, 0);
  }

  schedule(at: number, tokens: number, credit: () => void): void {
    this.#scheduled.push({ at, tokens, credit });
  }

  /** Take tokens in burn order, or of one source first, an entry for each lot; what no lot has becomes debt. */
  take(operation: Operation, counter: Counter, tokens: number, now: number, first?: string): void {
    let left = tokens;
    const preferred = this.#lots.filter((lot) => first !== undefined && lot.source.startsWith(first));
    for (const lot of [...preferred, ...this.#lots]) {
      const part = Math.min(lot.tokens, left);
      left -= part;
      this.#post(operation, counter, -part, now, lot, () => {
        lot.tokens -= part;
      });
    }
    this.#post(operation, counter, -left, now, undefined, () => {
      this.debt += left;
    });
  }

  /** Post what time alone brings about until `now`: ends of holds and lots, free periods, scheduled credit. */
  settleDue(operation: Operation, now: number): void {
    for (const hold of this.holds.values())
      if (hold.state === "open" && hold.expiresAt <= now) hold.state = "expired";
    this.#renewFree(operation, now);
    for (const lot of this.#lots)
      if (lot.expiresAt <= now && lot.tokens > 0) this.#expire(operation, lot, now);
    const due = this.#scheduled.filter(({ at }) => at <= now);
    this.#scheduled = this.#scheduled.filter(({ at }) => at > now);
    for (const { credit } of due) credit();
  }

  /** Begin a period and grant its allocation, which ends with it. */
  grant(operation: Operation, period: number, now: number): void {
    if (period > this.period) this.#beginPeriod();
    [this.grantedPeriod, this.granted] = [period, this.tier.monthlyTokens];
    this.allocate(operation, this.tier.monthlyTokens, now);
  }

  allocate(operation: Operation, tokens: number, now: number): void {
    if (tokens === 0) return;
    this.credit(operation, "allocated", tokens, now, {
      source: "allocation",
      expiresAt: this.periodStart(this.period + 1),
    });
  }

  /** End the allocation of the present period now; return its tokens. */
  endAllocation(operation: Operation, now: number): number {
    const lots = this.#lots.filter((lot) => lot.source === "allocation" && lot.tokens > 0);
    const tokens = lots.reduce((sum, lot) => sum + lot.tokens, 0);
    for (const lot of lots) this.#expire(operation, lot, now);
    return tokens;
  }

  #beginPeriod(): void {
    this.period += 1;
    this.quotaUsed.clear();
  }

  #renewFree(operation: Operation, now: number): void {
    while (this.periodStart(this.period + 1) <= now) {
      const start = this.periodStart(this.period + 1);
      for (const lot of this.#lots)
        if (lot.expiresAt <= start && lot.tokens > 0) this.#expire(operation, lot, start);
      if (this.tier.autoRenew && this.isActive(start)) this.grant(operation, this.period + 1, start);
      else this.#beginPeriod();
    }
  }

  #expire(operation: Operation, lot: Lot, now: number): void {
    this.#post(operation, "expired", -lot.tokens, now, lot, () => {
      lot.tokens = 0;
    });
  }

  #post(
    operation: Operation,
    counter: Counter,
    amount: number,
    now: number,
    lot: Pick<Lot, "number" | "source"> | undefined,
    move: () => void,
  ): void {
    if (amount === 0) return;
    const balanceBefore = this.balance;
    move();
    const taken = counter === "used" || counter === "expired" || counter === "reversed";
    this.totals[counter] += taken ? -amount : amount;
    const at = iso(now);
    this.entries.push({
      ...operation,
      status: "applied",
      counter: COUNTERS[counter],
      amount,
      balanceBefore,
      balanceAfter: this.balance,
      sequence: this.entries.length + 1,
      lot: lot?.number,
      source: lot?.source,
      occurredAt: at,
      recordedAt: at,
    });
  }
}

/** Return the moment some months later; a shorter month's last day stands for a day that it lacks. */
function monthsAfter(time: number, months: number): number {
  const date = new Date(time);
  const day = date.getUTCDate();
  date.setUTCDate(1);
  date.setUTCMonth(date.getUTCMonth() + months);
  const last = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 0)).getUTCDate();
  date.setUTCDate(Math.min(day, last));
  return date.getTime();
}
