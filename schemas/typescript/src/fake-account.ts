// One account of the fake: lots, holds, quotas, a period, and the entries that explain its balance.

import { AHEAD_MS, Calendar } from "./fake-calendar.js";
import type { Period } from "./fake-calendar.js";
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
  /** Operation that made it, or the lot from which it rolled over. */
  readonly operation: Operation;
  readonly granted: number;
  expiresAt: number;
  tokens: number;
  /** Tokens that expired unspent. */
  lapsed: number;
  /** True for what rolled over from an allocation, which happens once. */
  readonly isHeir: boolean;
  /** When the period of an allocation began. */
  readonly begins: number | undefined;
}

/** A lot as a rule makes it. */
interface Made {
  readonly source: string;
  readonly expiresAt?: number | undefined;
  readonly priority?: number | null | undefined;
  readonly isHeir?: boolean;
  readonly begins?: number | undefined;
}

/** Credit that takes effect later. */
interface Scheduled {
  readonly at: number;
  readonly operation: Operation;
  readonly counter: string;
  readonly tokens: number;
  readonly made: Made;
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
  readonly calendar: Calendar;
  readonly #quotaUsed = new Map<string, number>();
  debt = 0;
  /** Since when the account is frozen; undefined where it isn't. */
  frozenAt: number | undefined;
  expiredUntold = 0;
  #unfrozenAt = -Infinity;
  /** What rolled over last, and when. */
  #rolled = { at: -Infinity, tokens: 0 };
  /** Most tokens that were granted for the last granted period. */
  periodGranted = 0;
  /** Tier that takes the place of the present one. */
  next: { readonly tier: CatalogTier; at: number } | undefined;
  endsAt = Infinity;
  scheduled: Scheduled[] = [];
  /** When the subscription was taken up, where the commands said so, and whether for the next period alone. */
  readonly takenUp: { at: number; isScheduled: boolean }[] = [];
  #lots: Lot[] = [];
  #lotsMade = 0;

  constructor(
    readonly userId: string,
    public tier: CatalogTier,
    readonly clock: () => number,
    readonly openedAt = clock(),
  ) {
    this.calendar = new Calendar(openedAt);
  }

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

  /** Return the free part of a quota; a period that was never granted has none, where the tier needs a payment. */
  limit(quota: string): number {
    const isUnpaid = !this.tier.autoRenew && this.clock() >= this.calendar.grantedUntil;
    if (this.hasEnded || isUnpaid) return 0;
    return quota === "free_upload" ? this.tier.freeUploadBytes : (this.tier.freeUnits[quota] ?? 0);
  }

  used(quota: string): number {
    return this.#quotaUsed.get(this.#ofPeriod(quota)) ?? 0;
  }

  count(quota: string, units: number): void {
    this.#quotaUsed.set(this.#ofPeriod(quota), this.used(quota) + units);
  }

  #ofPeriod(quota: string): string {
    return `${quota} ${iso(this.period.start).slice(0, 10)}`;
  }

  free(quota: string): number {
    return Math.max(this.limit(quota) - this.used(quota), 0);
  }

  // -- tokens ----------------------------------------------------------------------------------------------

  /** Credit a lot; a debt is repaid first. */
  credit(operation: Operation, counter: string, tokens: number, now: number, made: Made): void {
    const lot = this.#lot(operation, tokens, made);
    const repaid = Math.min(this.debt, tokens);
    this.post(operation, counter, repaid, now);
    this.post(operation, counter, tokens - repaid, now, lot);
  }

  /** Make a lot without its tokens. */
  #lot(operation: Operation, granted: number, made: Made): Lot {
    const { source, expiresAt = Infinity, isHeir = false } = made;
    const [number, priority] = [(this.#lotsMade += 1), made.priority ?? PRIORITIES[source] ?? 50];
    const { begins } = made;
    const of = { number, source, priority, expiresAt, operation, granted, isHeir, begins };
    const lot = { ...of, tokens: 0, lapsed: 0 };
    this.#lots.push(lot);
    this.#lots.sort((one, other) => one.priority - other.priority || one.expiresAt - other.expiresAt);
    return lot;
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

  /** Expire the lots whose time is over, and tell it with the next command that moves something. */
  expireOver(operation: Operation, now: number): void {
    this.expiredUntold += this.#expire(
      operation,
      now,
      this.#lots.filter((lot) => lot.expiresAt <= now),
    );
  }

  /** Return the tokens that have expired since a command told it. */
  tellExpired(): number {
    const tokens = this.expiredUntold;
    this.expiredUntold = 0;
    return tokens;
  }

  /** Expire what is left of lots; return the tokens. */
  #expire(operation: Operation, now: number, lots: readonly Lot[]): number {
    const expired = lots.map((lot) => {
      const { tokens } = lot;
      lot.lapsed += tokens;
      this.post(operation, "expiry", -tokens, now, lot);
      return tokens;
    });
    return expired.reduce((sum, tokens) => sum + tokens, 0);
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

  /** Present period, in which quotas count. */
  get period(): Period {
    return this.calendar.presentPeriod(this.clock());
  }

  /** True where the subscription was canceled and its last period is over. */
  get hasEnded(): boolean {
    return this.endsAt <= this.clock();
  }

  /** End of what is granted, or of the present period where nothing is. */
  get paidUntil(): number {
    const [now, { grantedUntil }] = [this.clock(), this.calendar];
    return now < grantedUntil ? grantedUntil : this.calendar.allocationPeriod(now).end;
  }

  /** Set the tier; neither another one nor an end is waited for. */
  setTier(tier: CatalogTier): void {
    Object.assign(this, { tier, next: undefined, endsAt: Infinity });
  }

  /** Grant the first period of an account that is opened. */
  open(operation: Operation): void {
    this.periodGranted = this.tier.monthlyTokens;
    this.allocate(operation, this.periodGranted, { start: this.openedAt, end: this.calendar.grantedUntil });
  }

  /** Grant tokens that end with a period, and take effect when it begins. */
  allocate(operation: Operation, tokens: number, { start, end }: Period, begins = start): void {
    const made = { source: "allocation", expiresAt: end, begins };
    this.schedule({ at: start, operation, counter: "allocation", tokens, made });
  }

  /** Credit a lot at its time, at once where that has come. */
  schedule(credit: Scheduled): void {
    if (credit.at > this.clock()) this.scheduled.push(credit);
    else this.credit(credit.operation, credit.counter, credit.tokens, credit.at, credit.made);
  }

  /** Let credit of an operation take effect before its time. */
  takeEffect(operation: Operation, now: number): void {
    const own = this.scheduled.filter((one) => one.operation === operation);
    this.scheduled = this.scheduled.filter((one) => !own.includes(one));
    for (const credit of own) this.schedule({ ...credit, at: now });
  }

  /** End the allocations now, also those that are to come; return the tokens that expire. */
  endAllocations(operation: Operation): number {
    const now = this.clock();
    this.scheduled = this.scheduled.filter(({ counter }) => counter !== "allocation");
    const own = this.#lots.filter((lot) => lot.source === "allocation" && lot.expiresAt > now);
    for (const lot of own) lot.expiresAt = now;
    return this.#expire(operation, now, own);
  }

  /** End the allocations of periods before the present one that had begun by `moment`; return what expires. */
  endEarlier(operation: Operation, moment: number): number {
    const now = this.clock();
    const isEarlier = ({ source, expiresAt, begins }: Lot): boolean =>
      source === "allocation" &&
      expiresAt > now &&
      expiresAt !== this.calendar.grantedUntil &&
      (begins ?? now) <= moment;
    const own = this.#lots.filter(isEarlier);
    for (const lot of own) lot.expiresAt = now;
    return this.#expire(operation, now, own);
  }

  /** Give up the period that was granted ahead and begins at `ahead`. */
  giveUpAhead(ahead: number): void {
    this.scheduled = this.scheduled.filter(({ counter, at }) => counter !== "allocation" || at < ahead);
    this.calendar.giveUpAhead(ahead, this.clock());
    const present = this.#lots.filter(
      (lot) => lot.source === "allocation" && !lot.isHeir && lot.expiresAt === ahead,
    );
    this.periodGranted = present.reduce((sum, lot) => sum + lot.granted, 0);
  }

  // -- what is due -----------------------------------------------------------------------------------------

  /** Post what time alone brings about until now, in the order in which it fell due. */
  postDue(operation: Operation): void {
    const now = this.clock();
    for (const hold of this.holds.values())
      if (hold.state === "open" && hold.expiresAt <= now) hold.state = "expired";
    for (let due = this.#nextDue(operation); due.at <= now; due = this.#nextDue(operation)) due.post();
  }

  /** Return what is due next; of several at one time in the worker's order. */
  #nextDue(operation: Operation): { at: number; post: () => void } {
    const lots = this.#lots.filter((lot) => lot.tokens > 0);
    const [{ next }, { grantedUntil }] = [this, this.calendar];
    const renewsAt = this.tier.autoRenew && this.endsAt === Infinity ? grantedUntil : Infinity;
    const due = [
      ...lots.map(({ expiresAt: at }) => ({ at, post: () => this.#endLots(operation, at) })),
      next === undefined ? [] : { at: next.at, post: () => this.#changeTier() },
      next !== undefined && next.at <= this.clock()
        ? [] // no period is due before
        : { at: renewsAt, post: () => this.#renew(operation, renewsAt) },
      ...this.scheduled.map((credit) => ({ at: credit.at, post: () => this.#begin(credit) })),
    ].flat();
    return due.reduce((first, one) => (one.at < first.at ? one : first), { at: Infinity, post: () => {} });
  }

  /** Let what the tier allows roll over from allocations to the next period; what is left expires. */
  #endLots(operation: Operation, at: number): void {
    const ending = this.#lots.filter((lot) => lot.expiresAt === at && lot.tokens > 0);
    for (const lot of ending)
      if (lot.source === "allocation" && !lot.isHeir) this.#rollOver(operation, lot, at);
    this.expireOver(operation, at);
  }

  #rollOver(operation: Operation, lot: Lot, at: number): void {
    const period = this.calendar.periodAfter(at);
    const most = at - period.start >= AHEAD_MS || this.endsAt <= at ? 0 : this.tier.rolloverTokens;
    const before = this.#rolled.at === at ? this.#rolled.tokens : 0;
    const tokens = Math.max(Math.min(lot.tokens, most - before), 0);
    this.#rolled = { at, tokens: before + tokens };
    if (tokens === 0) return;
    const made = {
      source: lot.source,
      priority: lot.priority,
      expiresAt: period.end,
      isHeir: true,
      begins: at,
    };
    this.post(operation, "transfers", -tokens, at, lot);
    this.post(operation, "transfers", tokens, at, this.#lot(lot.operation, tokens, made));
  }

  #changeTier(): void {
    const { tier, at } = this.next!;
    if (this.calendar.grantedUntil < at) {
      this.calendar.beginOwn({ start: this.calendar.grantedUntil, end: at }, this.clock());
      this.periodGranted = 0;
    }
    Object.assign(this, { tier, next: undefined });
  }

  #renew(operation: Operation, start: number): void {
    const period = { start, end: this.calendar.allocationPeriod(start).end };
    this.calendar.beginOwn(period, this.clock());
    this.periodGranted = this.tier.monthlyTokens;
    this.allocate(operation, this.periodGranted, period);
  }

  #begin(credit: Scheduled): void {
    this.scheduled = this.scheduled.filter((one) => one !== credit);
    this.schedule(credit);
  }
}

export function sumOf(entries: readonly Pick<Entry, "amount">[]): number {
  return entries.reduce((sum, entry) => sum + entry.amount, 0);
}
