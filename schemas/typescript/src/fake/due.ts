// What time alone brings about in an account of the fake: holds run out, tokens expire or roll over, periods
// renew, credit takes effect. It is posted with the next command, in the order in which it fell due.

import type { FakeAccount } from "./account.js";
import { AHEAD_MS } from "./calendar.js";
import type { Period } from "./calendar.js";
import { closeHold } from "./holds.js";
import type { Hold } from "./holds.js";
import type { Lot, Operation } from "./lots.js";
import { compareBalance } from "./notices.js";

/** Operation of what is due, as a read posts it. */
export const LOOK: Operation = {
  ...{ transactionId: "0", referenceId: "look", type: "account.settle", code: "account_settled" },
};

/** Something that is due. Of several at one time the lower rank comes first, then the earlier place. */
interface Due {
  readonly at: number;
  readonly rank: number;
  readonly place: string | number;
  readonly post: () => void;
}

const RANKS = { runsOut: 0, expires: 1, changes: 2, renews: 3, takesEffect: 4 };

/** Return an account as a read counts it: what is due is posted, and not kept. */
export function withDue(account: FakeAccount): FakeAccount {
  const copy = account.branch();
  postDue(copy, LOOK);
  return copy;
}

/** Post all that is due by now. */
export function postDue(account: FakeAccount, operation: Operation): void {
  const posting = new Posting(account, operation);
  if (account.calendar.grantedUntil <= account.calendar.anchor) posting.grantFirst();
  for (let due = posting.next(); due !== undefined; due = posting.next()) due.post();
  account.hasFreed = false;
}

/** Expire the tokens that a command has freed and whose time is over; repay the debt with the others. */
export function postFreed(account: FakeAccount, operation: Operation): void {
  if (!account.hasFreed) return;
  account.hasFreed = false;
  const now = account.clock();
  for (const lot of account.lots) account.expire(operation, lot, now);
  account.repay(operation, now);
}

class Posting {
  readonly #now: number;
  /** What has rolled over by time. */
  readonly #rolled = new Map<number, number>();

  constructor(
    private readonly account: FakeAccount,
    private readonly operation: Operation,
  ) {
    this.#now = account.clock();
  }

  /** Return the first thing that is due; undefined where nothing is. */
  next(): Due | undefined {
    return [this.#turn(), ...this.#others()]
      .filter((due) => due !== undefined)
      .filter(({ at }) => at <= this.#now)
      .sort((one, other) => one.at - other.at || one.rank - other.rank || (one.place < other.place ? -1 : 1))
      .at(0);
  }

  /** Return the ends of holds, and what is due of lots. */
  #others(): Due[] {
    const { account, operation } = this;
    const holds = [...account.holds].filter(([, hold]) => hold.state === "open");
    return [
      ...holds.map(([id, hold]) => {
        const [at, place] = [hold.expiresAt, `${String(hold.openedAt).padStart(16)} ${id}`];
        return { at, rank: RANKS.runsOut, place, post: () => this.#runOut(hold) };
      }),
      ...account.lots.map((lot) => {
        const place = lot.number;
        if (lot.free > 0 && lot.endsAt <= this.#now)
          return { at: lot.endsAt, rank: RANKS.expires, place, post: () => this.#end(lot) };
        const at = lot.pending > 0 ? lot.effectiveAt : Infinity;
        return { at, rank: RANKS.takesEffect, place, post: () => account.takeEffect(operation, lot, at) };
      }),
    ];
  }

  /** Return the next tier's turn, or else the next period that begins by itself. */
  #turn(): Due | undefined {
    const { next, tier, endsAt, calendar } = this.account;
    if (next !== undefined && next.at <= this.#now)
      return { at: next.at, rank: RANKS.changes, place: 0, post: () => this.#changeTier(next) };
    if (!tier.autoRenew || endsAt !== Infinity) return undefined;
    return { at: calendar.grantedUntil, rank: RANKS.renews, place: 0, post: () => this.#renew() };
  }

  #runOut(hold: Hold): void {
    const { account, operation } = this;
    closeHold(account, hold, "expired");
    for (const { lot: number } of hold.parts) {
      const lot = account.lot(number);
      if (lot.endsAt < hold.expiresAt) account.expire(operation, lot, hold.expiresAt);
    }
    account.repay(operation, hold.expiresAt);
  }

  #end(lot: Lot): void {
    const at = lot.endsAt;
    this.#rollOver(lot, at);
    this.account.expire(this.operation, lot, at);
  }

  /** Transfer what the tier lets roll over of an allocation to a lot of the next period. */
  #rollOver(lot: Lot, at: number): void {
    const { account, operation } = this;
    if (lot.source !== "allocation" || lot.parent !== undefined) return;
    const period = account.calendar.periodAfter(at);
    if (lot.endedAt !== Infinity || at - period.start >= AHEAD_MS) return; // it ends inside another period
    const most = account.endsAt <= at ? 0 : account.tier.rolloverTokens;
    const before = this.#rolled.get(at) ?? 0;
    const tokens = Math.min(lot.free, most - before);
    if (tokens <= 0) return;
    this.#rolled.set(at, before + tokens);
    const made = { source: lot.source, tokens, effectiveAt: at, expiresAt: period.end, parent: lot.number };
    const heir = account.openLot(operation, made);
    account.post(operation, "transfers", -tokens, lot, at);
    account.post(operation, "transfers", tokens, heir, at);
    account.repay(operation, at);
  }

  #changeTier({ tier, at }: NonNullable<FakeAccount["next"]>): void {
    const { account } = this;
    const { calendar } = account;
    if (calendar.grantedUntil < at) {
      calendar.beginOwn({ start: calendar.grantedUntil, end: at }, this.#now);
      account.periodGranted = 0;
    }
    Object.assign(account, { tier, next: undefined });
  }

  // -- periods ---------------------------------------------------------------------------------------------

  /** Grant the first period of an account that a usage or credit opened. */
  grantFirst(): void {
    const { anchor } = this.account.calendar;
    this.#grant({ start: anchor, end: this.account.calendar.allocationPeriod(anchor).end });
    compareBalance(this.account); // an account that is opened below a mark has not fallen to it
  }

  /** Grant the next period; or all at once that have passed and of which nothing is left. */
  #renew(): void {
    const { debt, tier } = this.account;
    let passed = this.#passed();
    if (debt > 0) {
      const repaying = tier.monthlyTokens > 0 ? Math.floor(debt / tier.monthlyTokens) : passed.length;
      const before = Math.min(this.#now, ...this.#others().map(({ at }) => at));
      passed = passed.slice(0, repaying).filter(({ start }) => start < before);
    }
    if (passed.length > 1) this.#grantAtOnce(passed);
    else this.#grant(this.#periodFrom(this.account.calendar.grantedUntil));
  }

  /** Return the periods to be granted that have passed, without the last, of which a part may be left. */
  #passed(): Period[] {
    const { calendar } = this.account;
    const last = calendar.allocationPeriod(calendar.allocationPeriod(this.#now).start - 1);
    const passed: Period[] = [];
    for (let end = calendar.grantedUntil; end < last.start; end = passed.at(-1)!.end)
      passed.push(this.#periodFrom(end));
    return passed;
  }

  #periodFrom(start: number): Period {
    return { start, end: this.account.calendar.allocationPeriod(start).end };
  }

  /** Grant several periods in one lot; what doesn't repay the debt has expired since. */
  #grantAtOnce(periods: readonly Period[]): void {
    const { account, operation } = this;
    const { monthlyTokens } = account.tier;
    const whole = { start: periods[0]!.start, end: periods.at(-1)!.end };
    if (monthlyTokens > 0) {
      const lot = account.credit(operation, allocation(monthlyTokens * periods.length, whole), whole.start);
      account.expire(operation, lot, whole.end);
    }
    account.calendar.beginOwn(whole, this.#now);
    account.periodGranted = monthlyTokens;
  }

  #grant(period: Period): void {
    const { account, operation } = this;
    const { monthlyTokens } = account.tier;
    account.calendar.beginOwn(period, this.#now);
    account.periodGranted = monthlyTokens;
    if (monthlyTokens > 0) account.credit(operation, allocation(monthlyTokens, period), period.start);
  }
}

/** Return the credit of a period, which ends with it. */
export function allocation(tokens: number, { start, end }: Period) {
  return { source: "allocation", tokens, effectiveAt: start, expiresAt: end } as const;
}
