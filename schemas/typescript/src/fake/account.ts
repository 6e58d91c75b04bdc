// One account of the fake: lots, holds, quotas, a calendar, and the entries that explain its balance.

import { iso } from "../formats.js";
import type { CatalogTier, Totals, Transaction } from "../generated/contract.js";
import type { Calendar, Period } from "./calendar.js";
import type { Terms } from "./catalog.js";
import type { Hold } from "./holds.js";
import { COUNTER_OF, Lot, inBurnOrder } from "./lots.js";
import type { Credit, Operation } from "./lots.js";

export type Entry = Omit<Transaction, "transactionId" | "referenceId" | "type" | "code"> & {
  readonly operation: Operation;
};

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

export class FakeAccount {
  entries: Entry[] = [];
  lots: Lot[] = [];
  holds = new Map<string, Hold>();
  /** Used units by quota and period. */
  quotas = new Map<string, number>();
  debt = 0;
  /** Most tokens that were granted for the last granted period. */
  periodGranted = 0;
  /** Tier that takes the place of the present one. */
  next: { readonly tier: CatalogTier; at: number } | undefined;
  endsAt = Infinity;
  /** Since when the account is frozen; undefined where it isn't. */
  frozenAt: number | undefined;
  unfrozenAt = -Infinity;
  /** Types of notices whose mark is reached. */
  alerts = new Set<string>();
  /** Tokens that have expired with the present command. */
  expiredNow = 0;
  /** True where tokens became free that may have to expire at once. */
  hasFreed = false;

  constructor(
    readonly userId: string,
    public tier: CatalogTier,
    public calendar: Calendar,
    readonly terms: Terms,
    readonly clock: () => number,
    readonly openedAt = clock(),
  ) {}

  /** Return a copy whose changes don't reach this account. */
  branch(): FakeAccount {
    const { userId, tier, calendar, terms, clock, openedAt } = this;
    return Object.assign(new FakeAccount(userId, tier, calendar, terms, clock, openedAt), this, {
      entries: [...this.entries],
      lots: this.lots.map((lot) => lot.copy()),
      holds: new Map([...this.holds].map(([id, hold]) => [id, { ...hold }])),
      quotas: new Map(this.quotas),
      alerts: new Set(this.alerts),
      calendar: this.calendar.copy(),
    });
  }

  // -- sums ------------------------------------------------------------------------------------------------

  get balance(): number {
    return this.lots.reduce((sum, lot) => sum + lot.tokens, -this.debt);
  }

  get held(): number {
    return [...this.holds.values()].reduce((sum, hold) => sum + (hold.state === "open" ? hold.tokens : 0), 0);
  }

  get available(): number {
    return this.balance - this.held;
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

  // -- lots ------------------------------------------------------------------------------------------------

  lot(number: number): Lot {
    return this.lots[number - 1]!;
  }

  /** Return the lots with free tokens in the order in which they are spent. */
  burning(): Lot[] {
    return this.lots.filter((lot) => lot.free > 0).sort(inBurnOrder);
  }

  /** Open a lot without its tokens. */
  openLot(operation: Operation, { source, tokens, ...credit }: Credit): Lot {
    const priority = credit.priority ?? this.terms.priorities[source];
    const [effectiveAt, number] = [credit.effectiveAt ?? this.clock(), this.lots.length + 1];
    const expiresAt = credit.expiresAt ?? Infinity;
    const lot = new Lot(number, operation, source, tokens, priority, effectiveAt, expiresAt, credit.parent);
    this.lots.push(lot);
    return lot;
  }

  /** Open a lot of new tokens; a debt is repaid with them first. `dueAt` is given where time brought them. */
  credit(operation: Operation, credit: Credit, dueAt?: number): Lot {
    const lot = this.openLot(operation, credit);
    this.#fill(operation, lot, credit.tokens, credit.counter ?? COUNTER_OF[credit.source], dueAt);
    return lot;
  }

  /** Open a lot of tokens that take effect later; no balance has them before. */
  schedule(operation: Operation, credit: Credit): void {
    this.openLot(operation, credit).pending = credit.tokens;
  }

  /** Post the pending tokens of a lot, whose time came at `at`. */
  takeEffect(operation: Operation, lot: Lot, at: number): void {
    const tokens = lot.pending;
    lot.pending = 0;
    this.#fill(operation, lot, tokens, COUNTER_OF[lot.source], at);
  }

  #fill(operation: Operation, lot: Lot, tokens: number, counter: string, dueAt?: number): void {
    const repaid = Math.min(this.debt, tokens);
    this.post(operation, counter, repaid, undefined, dueAt);
    this.post(operation, counter, tokens - repaid, lot, dueAt);
    if (dueAt === undefined && lot.endsAt <= this.clock()) this.hasFreed = true;
  }

  // -- entries ---------------------------------------------------------------------------------------------

  /** Take up to so many free tokens in burn order, an entry for each lot; return what is lacking. */
  take(operation: Operation, counter: string, tokens: number): number {
    let left = tokens;
    for (const lot of this.burning()) {
      const part = Math.min(lot.free, left);
      left -= part;
      this.post(operation, counter, -part, lot);
    }
    return left;
  }

  /** Take tokens as debt. */
  owe(operation: Operation, counter: string, tokens: number): void {
    this.post(operation, counter, -tokens);
  }

  /** Repay the debt with tokens that are free at `at`, in pairs of entries. */
  repay(operation: Operation, at: number): void {
    for (const lot of this.burning().filter(({ endsAt }) => endsAt > at)) {
      const part = Math.min(lot.free, this.debt);
      this.post(operation, "transfers", -part, lot, at);
      this.post(operation, "transfers", part, undefined, at);
    }
  }

  /** Expire what is free of a lot whose time is over at `at`, or that was ended, by any clock. */
  expire(operation: Operation, lot: Lot, at: number): void {
    const isOver = lot.endsAt <= at || lot.endedAt !== Infinity;
    if (isOver) this.post(operation, "expiry", -lot.free, lot, Math.min(lot.endsAt, at));
  }

  /** Post one entry to a lot, or else to the debt: the only place where a balance changes. */
  post(operation: Operation, counter: string, amount: number, lot?: Lot, dueAt?: number): void {
    if (amount === 0) return;
    const balanceBefore = this.balance;
    if (lot === undefined) this.debt -= amount;
    else lot.tokens += amount;
    if (counter === "expiry" && dueAt !== undefined) this.expiredNow -= amount;
    const [balanceAfter, sequence, now] = [this.balance, this.entries.length + 1, this.clock()];
    this.entries.push({
      ...{ operation, status: "applied", counter, amount, balanceBefore, balanceAfter, sequence },
      ...{ lot: lot?.number, source: lot?.source },
      feature: counter === "usage" ? operation.feature : undefined,
      dueAt: dueAt === undefined ? undefined : iso(dueAt),
      occurredAt: iso(dueAt ?? operation.occurredAt ?? now),
      recordedAt: iso(now),
    });
  }

  // -- quotas ----------------------------------------------------------------------------------------------

  /** Present period, in which quotas count. */
  get period(): Period {
    return this.calendar.presentPeriod(this.clock());
  }

  /** True where the subscription was canceled and its last period is over. */
  get hasEnded(): boolean {
    return this.endsAt <= this.clock();
  }

  /** Return the free part of a quota; a period that was never granted has none, where the tier needs a payment. */
  limit(quota: string): number {
    const isUnpaid = !this.tier.autoRenew && this.clock() >= this.calendar.grantedUntil;
    if (this.hasEnded || isUnpaid) return 0;
    return quota === "free_upload" ? this.tier.freeUploadBytes : (this.tier.freeUnits[quota] ?? 0);
  }

  /** Return the names of quotas: free uploads, then every other that the tier has, or that was used. */
  get quotaNames(): string[] {
    const period = this.#ofPeriod("");
    const used = [...this.quotas.keys()].filter((key) => key.endsWith(period));
    const names = [...Object.keys(this.tier.freeUnits), ...used.map((key) => key.slice(0, -period.length))];
    return ["free_upload", ...new Set(names.filter((name) => name !== "free_upload").sort())];
  }

  used(quota: string): number {
    return this.quotas.get(this.#ofPeriod(quota)) ?? 0;
  }

  free(quota: string): number {
    return Math.max(this.limit(quota) - this.used(quota), 0);
  }

  count(quota: string, units: number, period = this.period): void {
    const key = this.#ofPeriod(quota, period);
    this.quotas.set(key, (this.quotas.get(key) ?? 0) + units);
  }

  #ofPeriod(quota: string, period = this.period): string {
    return `${quota} ${iso(period.start).slice(0, 10)}`;
  }
}

export function sumOf(entries: readonly Pick<Entry, "amount">[]): number {
  return entries.reduce((sum, entry) => sum + entry.amount, 0);
}
