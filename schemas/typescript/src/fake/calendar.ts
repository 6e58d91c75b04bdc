// Calendar of one account of the fake: months from its anchor, and a gateway's own period while that runs.
// After a gateway's period months count from its start, where they meet its end, or else from its end.

import { DAY_MS } from "./decisions.js";

/** Period from `start` until before `end`. */
export interface Period {
  readonly start: number;
  readonly end: number;
}

/** Two calendars never agree to the second: what is so near to a period's start is about that period. */
export const AHEAD_MS = DAY_MS;
const MONTH_AT_MOST_MS = 31 * DAY_MS;
/** Months from the last days of a month end up to three days apart, and calendars differ by one more. */
const GOES_ON_MS = 4 * DAY_MS;

export class Calendar {
  /** Start of the last granted period where a gateway named it; undefined where it is the account's own. */
  #grantedFrom: number | undefined;
  #anchor: number;
  #grantedUntil: number;

  constructor(anchor: number, grantedUntil: number) {
    this.#anchor = anchor;
    this.#grantedUntil = grantedUntil;
  }

  copy(): Calendar {
    const copy = new Calendar(this.#anchor, this.#grantedUntil);
    copy.#grantedFrom = this.#grantedFrom;
    return copy;
  }

  get anchor(): number {
    return this.#anchor;
  }

  get grantedUntil(): number {
    return this.#grantedUntil;
  }

  /** Return the period in which quotas count: the months of a period that is longer than one. */
  presentPeriod(now: number): Period {
    const period = this.allocationPeriod(now);
    if (period.end - period.start <= MONTH_AT_MOST_MS) return period;
    const month = monthAt(period.start, Math.max(now, period.start));
    return { start: month.start, end: Math.min(month.end, period.end) };
  }

  /** Return the period of a moment for which tokens are granted; the first one, for a time before it. */
  allocationPeriod(moment: number): Period {
    const at = Math.max(moment, this.#anchor);
    const [start, end] = [this.#grantedFrom, this.#grantedUntil];
    if (start === undefined) return monthAt(this.#anchor, at);
    if (at >= end) return monthAt(this.#anchorAfter(), at);
    if (at >= start) return { start, end };
    const before = monthAt(this.#anchor, at);
    return { start: before.start, end: Math.min(before.end, start) };
  }

  /** Return the period into which tokens of one that ended at `end` roll over. */
  periodAfter(end: number): Period {
    const start = this.#grantedFrom;
    const isNext = start !== undefined && Math.abs(start - end) < AHEAD_MS;
    return isNext ? { start, end: this.#grantedUntil } : this.allocationPeriod(end);
  }

  /** Return the earliest time that a renewal by the account's own calendar may name, but for a day. */
  earliest(now: number): number {
    return this.#grantedFrom === undefined ? this.#anchor : this.allocationPeriod(now).start;
  }

  /** Return the start of the last period that was granted. */
  get lastStart(): number {
    return this.#grantedFrom ?? monthAt(this.#anchor, this.#grantedUntil - 1).start;
  }

  /** Return whether the period that a gateway names is granted, or a later one; a year is no month. */
  isGrantedToGateway({ start, end }: Period): boolean {
    if (this.#grantedFrom !== undefined) return start <= this.#grantedFrom;
    return start - this.lastStart < AHEAD_MS && end - this.#grantedUntil < GOES_ON_MS;
  }

  /** Make a period, which the account's own calendar named, the last that is granted. */
  beginOwn(period: Period, now: number): void {
    if (this.#grantedFrom !== undefined && now < period.start) return this.beginGateways(period, now);
    [this.#anchor, this.#grantedFrom] = [this.#anchorAfter(), undefined];
    this.#grantedUntil = period.end;
  }

  /** Make a period, which a gateway named, the last that is granted; the one of `now` stays known. */
  beginGateways(period: Period, now: number): void {
    const start = this.#grantedFrom;
    if (start !== undefined && start <= now)
      this.#anchor = now >= this.#grantedUntil ? this.#anchorAfter() : this.#anchorWithin(start);
    [this.#grantedFrom, this.#grantedUntil] = [period.start, period.end];
  }

  /** Make the period of `now` the last that is granted again, which ends at `ahead`. */
  giveUpAhead(ahead: number, now: number): void {
    if (this.#grantedFrom !== undefined) this.#grantedFrom = this.allocationPeriod(now).start;
    this.#grantedUntil = ahead;
  }

  /** Return the anchor of the gateway's period from `start`: the account's own, where that meets it. */
  #anchorWithin(start: number): number {
    const own = monthAt(this.#anchor, Math.max(start, this.#anchor));
    return own.start === start && own.end === this.#grantedUntil ? this.#anchor : start;
  }

  /** Return the anchor of the months that follow the last granted period. */
  #anchorAfter(): number {
    if (this.#grantedFrom === undefined) return this.#anchor;
    const [anchor, end] = [this.#anchorWithin(this.#grantedFrom), this.#grantedUntil];
    return monthsAfter(anchor, monthsBetween(anchor, end)) === end ? anchor : end;
  }
}

/** Return the month from `anchor` that contains a moment. */
export function monthAt(anchor: number, moment: number): Period {
  const months = monthsBetween(anchor, moment);
  const number = monthsAfter(anchor, months) > moment ? months - 1 : months;
  return { start: monthsAfter(anchor, number), end: monthsAfter(anchor, number + 1) };
}

function monthsBetween(one: number, other: number): number {
  const [from, to] = [new Date(one), new Date(other)];
  return (to.getUTCFullYear() - from.getUTCFullYear()) * 12 + to.getUTCMonth() - from.getUTCMonth();
}

/** Return the moment some months later; a shorter month's last day stands for a day that it lacks. */
function monthsAfter(time: number, months: number): number {
  const date = new Date(time);
  const day = date.getUTCDate();
  date.setUTCMonth(date.getUTCMonth() + months);
  if (date.getUTCDate() !== day) date.setUTCDate(0);
  return date.getTime();
}
