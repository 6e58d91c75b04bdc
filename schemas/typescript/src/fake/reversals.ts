// What goes back of a payment of the fake: it follows from the set of its events, not from their order.

import type { Code } from "../generated/contract.js";
import type { FakeAccount } from "./account.js";
import type { Terms } from "./catalog.js";
import { DAY_MS, timeOf } from "./decisions.js";
import type { Case, Of } from "./decisions.js";
import { closeHold, keep } from "./holds.js";
import type { Lot } from "./lots.js";
import type { Event, Payment } from "./payments.js";

export type EventCommand = Of<
  | "payment.refunded"
  | "payment.refund_failed"
  | "payment.disputed"
  | "payment.dispute_closed"
  | "payment.failed"
>;
type Closing = Of<"payment.dispute_closed">;

/** Return whether an event's money can count: a refund in another currency is a mistake. */
export function fits({ currency }: Payment, command: EventCommand): boolean {
  return command.type !== "payment.refunded" || command.currency === currency;
}

export function amountIn(command: EventCommand): number | undefined {
  if ("refundedTotalMinor" in command && command.refundedTotalMinor != null)
    return command.refundedTotalMinor;
  return ("amountMinor" in command ? command.amountMinor : undefined) ?? undefined;
}

export function eventCode(command: EventCommand, { events }: Payment): Code {
  switch (command.type) {
    case "payment.refunded":
      return isStyleMixed(events) ? "refund_style_mixed" : "payment_refunded";
    case "payment.refund_failed":
      return "refund_failed";
    case "payment.disputed":
      return command.stage === "inquiry" ? "inquiry_opened" : "payment_disputed";
    case "payment.dispute_closed":
      return `dispute_${command.result}`;
    case "payment.failed":
      return "payment_failed";
  }
}

function isStyleMixed(events: readonly Event[]): boolean {
  const styles = only(events, "payment.refunded").map((refund) => refund.amountMinor == null);
  return new Set(styles).size > 1;
}

/** Return how much of an event's money counts beside the events before it, where that is less. */
export function countedLess(
  command: EventCommand,
  payment: Payment,
  before: readonly Event[],
  { payments }: Terms,
): number | undefined {
  const amount = amountIn(command);
  const isOther = "currency" in command && command.currency !== payment.currency;
  if (amount === undefined || isOther) return undefined;
  if (command.type === "payment.refunded" && command.amountMinor == null)
    return payment.amountMinor < amount ? payment.amountMinor : undefined;
  const counted = moneyBack(payment, payment.events, payments) - moneyBack(payment, before, payments);
  const takes = command.type === "payment.refunded" || isLost(command);
  return takes && counted < amount ? counted : undefined;
}

// -- money that has gone back ------------------------------------------------------------------------------

/** Return the money that went back: refunds and disputes, at most what was paid; all of it for a failure. */
function moneyBack(payment: Payment, events: readonly Event[], terms: Terms["payments"]): number {
  const { amountMinor, occurredAt: paidAt } = payment;
  const hasFailed = ({ occurredAt }: Of<"payment.failed">): boolean =>
    paidAt === undefined || (timeOf(occurredAt) ?? paidAt) >= paidAt;
  if (only(events, "payment.failed").some(hasFailed)) return whole(payment);
  return Math.min(refunded(events) + disputed(payment, events, terms), amountMinor);
}

/** Return the basis of proportions, which is never 0. */
function whole({ amountMinor }: Payment): number {
  return Math.max(amountMinor, 1);
}

/** Return the sum of single refunds, or the latest total; of both the larger. */
function refunded(events: readonly Event[]): number {
  const failed = only(events, "payment.refund_failed").map((one) => one.refundReferenceId);
  const refunds = only(events, "payment.refunded");
  const singles = refunds.filter((one) => !failed.includes(one.referenceId));
  const totals = refunds.filter((one) => one.refundedTotalMinor != null);
  totals.sort(
    (one, other) => occurred(one) - occurred(other) || one.refundedTotalMinor! - other.refundedTotalMinor!,
  );
  return Math.max(sum(singles.map((one) => one.amountMinor ?? 0)), totals.at(-1)?.refundedTotalMinor ?? 0);
}

/** Return the money of disputes: of the latest closing where that is lost, of open ones where the terms take it. */
function disputed(payment: Payment, events: readonly Event[], { onDispute }: Terms["payments"]): number {
  const money = ({ amountMinor, currency }: { amountMinor: number; currency: string }): number =>
    currency === payment.currency ? amountMinor : payment.amountMinor;
  const taken = (dispute: readonly Event[]): number => {
    const closing = latest(only(dispute, "payment.dispute_closed"), money);
    if (closing !== undefined) return isLost(closing) ? money(closing) : 0;
    const opened = onDispute === "take" ? chargebacks(dispute) : [];
    return Math.max(0, ...opened.map(money));
  };
  return sum(disputes(events).map(taken));
}

/** Return the latest closing, one without a time before all others; of a tie a lost one, and the most money. */
function latest(closings: Closing[], money: (closing: Closing) => number): Closing | undefined {
  const order = (closing: Closing) => [occurred(closing), Number(isLost(closing)), money(closing)] as const;
  return closings
    .sort((one, other) => {
      const [a, b] = [order(one), order(other)];
      return (a[0] === b[0] ? 0 : a[0] - b[0]) || a[1] - b[1] || a[2] - b[2];
    })
    .at(-1);
}

function isDisputed(events: readonly Event[]): boolean {
  const isOpen = (dispute: readonly Event[]): boolean =>
    only(dispute, "payment.dispute_closed").length === 0 && chargebacks(dispute).length > 0;
  return disputes(events).some(isOpen);
}

function disputes(events: readonly Event[]): Event[][] {
  const found = new Map<string, Event[]>();
  for (const event of events) {
    if (!("disputeId" in event.command)) continue;
    const { disputeId } = event.command;
    found.set(disputeId, [...(found.get(disputeId) ?? []), event]);
  }
  return [...found.values()];
}

function chargebacks(dispute: readonly Event[]): Of<"payment.disputed">[] {
  return only(dispute, "payment.disputed").filter(({ stage }) => stage !== "inquiry");
}

function isLost(command: EventCommand): boolean {
  return command.type === "payment.dispute_closed" && command.result === "lost";
}

function occurred({ occurredAt }: EventCommand): number {
  return timeOf(occurredAt) ?? -Infinity;
}

function only<T extends EventCommand["type"]>(events: readonly Event[], type: T): Of<T>[] {
  return events.map(({ command }) => command).filter((command) => command.type === type) as Of<T>[];
}

// -- tokens that follow from it ----------------------------------------------------------------------------

interface Group {
  readonly lots: readonly Lot[];
  readonly granted: number;
}

/** Tokens that go back of a group of lots, and those that are not asked for: they expired unspent. */
interface Asked {
  readonly asked: number;
  readonly lapsed: number;
}

/** Take back or give back what all events ask for; return what moved, and what is not claimed.
 *
 * What the events `before` asked for and didn't get was written off: it is not claimed again, and what goes back
 * goes back of it first. */
export function bringUpToDate(
  payment: Payment,
  before: readonly Event[],
  of: Case,
): { collected: number; uncollected: number | undefined } {
  const { account, operation, now } = of;
  const terms = account.terms.payments;
  letGo(payment, account);
  const groups = groupsOf(payment, account).map((group) => ({
    ...group,
    ...askedOf(group, payment, payment.events, account),
  }));
  const asked = sum(groups.map((group) => group.asked));
  const lapsed = sum(groups.map((group) => group.lapsed));
  const { collected, uncollected } = payment;
  const hadAsked = sum(groups.map((group) => askedOf(group, payment, before, account).asked));
  const claimed = Math.min(collected, asked) + Math.max(asked - Math.max(collected, hadAsked), 0);
  const own = groups.flatMap(({ lots }) => lots);
  for (const lot of own) if (claimed > 0 && lot.pending > 0) account.takeEffect(operation, lot, now);
  let taken = new Taking(payment, own, of).take(claimed, groups);
  if (terms.whenSpent === "debt" && claimed > taken) {
    account.owe(operation, "reversals", claimed - taken);
    remember(payment, undefined, claimed - taken);
    taken = claimed;
  }
  payment.collected = taken;
  payment.uncollected = asked + lapsed - taken;
  if (terms.onDispute === "hold" && isDisputed(payment.events))
    keepDisputed(payment, own, of, now + terms.disputeHoldDays * DAY_MS);
  const more = payment.uncollected - uncollected;
  return { collected: taken - collected, uncollected: more > 0 ? more : undefined };
}

/** End the hold that keeps a payment's lots while it is disputed. */
function letGo({ referenceId }: Payment, account: FakeAccount): void {
  for (const hold of account.holds.values())
    if (hold.payment === referenceId && hold.state === "open") closeHold(account, hold, "released");
}

/** Keep what is unspent of a disputed payment, so that nobody spends it. */
function keepDisputed({ referenceId: payment }: Payment, own: readonly Lot[], of: Case, expiresAt: number) {
  const free = sum(own.map((lot) => lot.free));
  keep(of.account, of.operation.referenceId, own, free, { expiresAt, payment });
}

/** Return the lots of a payment: what was paid for, and the bonus; of a period the allocation and its heirs. */
function groupsOf(
  { operation, isOfPeriod, baseTokens, bonusTokens }: Payment,
  account: FakeAccount,
): Group[] {
  const made = account.lots.filter((lot) => lot.operation === operation);
  if (!isOfPeriod)
    return [
      { lots: made.filter(({ source }) => source === "purchase"), granted: baseTokens },
      { lots: made.filter(({ source }) => source === "purchase_bonus"), granted: bonusTokens },
    ];
  // What is due is posted by the same operation before: the last allocation is the one that was paid.
  const paid = made.filter(({ source, parent }) => source === "allocation" && parent === undefined).at(-1);
  const own = new Set(paid === undefined || baseTokens === 0 ? [] : [paid.number]);
  for (const { source, parent, number } of account.lots)
    if (source === "allocation" && parent !== undefined && own.has(parent)) own.add(number);
  return [{ lots: [...own].map((number) => account.lot(number)), granted: baseTokens }];
}

/** Return what goes back of a group of lots for some events of its payment. */
function askedOf(
  { lots, granted }: Group,
  payment: Payment,
  events: readonly Event[],
  account: FakeAccount,
): Asked {
  const terms = account.terms.payments;
  const [back, of] = [moneyBack(payment, events, terms), whole(payment)];
  const share = Math.floor((granted * back) / of);
  const lapsed = lots.map((lot) => {
    const before = moneyBack(payment, knownBefore(events, lot.endsAt), terms);
    return back <= before ? 0 : Math.floor((lapsedOf(lot, account) * (back - before)) / (of - before));
  });
  const notAsked = Math.min(sum(lapsed), share);
  return { asked: share - notAsked, lapsed: notAsked };
}

/** Return the tokens of a lot that expired unspent. */
function lapsedOf({ number }: Lot, { entries }: FakeAccount): number {
  const expired = entries.filter((entry) => entry.counter === "expiry" && entry.lot === number);
  return sum(expired.map(({ amount }) => -amount));
}

/** Return the events of refunds and disputes that were known before `moment`, with what came of them. */
function knownBefore(events: readonly Event[], moment: number): Event[] {
  const known = new Set(events.filter(({ at }) => at < moment).map(subject));
  return events.filter((event) => known.has(subject(event)));
}

/** Return the dispute or the refund that an event is about: a gateway may number both alike. */
function subject({ command }: Event): string {
  if ("disputeId" in command) return `dispute ${command.disputeId}`;
  return `refund ${"refundReferenceId" in command ? command.refundReferenceId : command.referenceId}`;
}

/** The lots of a payment's account, while as much is taken of each as its events ask for. */
class Taking {
  constructor(
    private readonly payment: Payment,
    private readonly own: readonly Lot[],
    private readonly of: Case,
  ) {}

  /** Take of the payment's own lots first, then of others as they are spent; return how many were taken.
   *
   * What is taken already is kept where it was, and what is given back goes to where it came from. */
  take(tokens: number, groups: readonly (Group & Asked)[]): number {
    const { account } = this.of;
    const before = this.#before();
    const free = new Map(this.own.map((lot) => [lot.number, lot.free + (before.get(lot.number) ?? 0)]));
    const after = this.#ofOwn(tokens, groups, free);
    let left = tokens - sum([...after.values()]);
    const others = [...before].filter(([number]) => number !== undefined && !free.has(number));
    for (const [number, taken] of others) {
      const kept = Math.min(taken, left);
      after.set(number!, kept);
      left -= kept;
    }
    const debt = before.get(undefined) ?? 0;
    const owed = Math.min(debt, left);
    for (const [number, now] of after) this.#move(number, now - (before.get(number) ?? 0));
    this.#repay(debt - owed);
    left -= owed;
    for (const lot of account.burning()) {
      const part = Math.min(lot.free, left);
      this.#move(lot.number, part);
      left -= part;
    }
    return tokens - left;
  }

  /** Return the part of each own lot: in proportion, then what is left of the lots. */
  #ofOwn(tokens: number, groups: readonly (Group & Asked)[], free: Map<number, number>): Map<number, number> {
    const parts = new Map([...free.keys()].map((number) => [number, 0]));
    let left = tokens;
    for (const most of [
      ...groups.map(({ lots, asked }) => ({ lots, asked })),
      { lots: this.own, asked: tokens },
    ]) {
      let group = Math.min(most.asked, left);
      for (const { number } of most.lots) {
        const part = Math.min(free.get(number)! - parts.get(number)!, group);
        parts.set(number, parts.get(number)! + part);
        group -= part;
        left -= part;
      }
    }
    return parts;
  }

  /** Take tokens of a lot, or give them back where they are negative. */
  #move(number: number, tokens: number): void {
    const { account, operation } = this.of;
    account.post(operation, "reversals", -tokens, account.lot(number));
    remember(this.payment, number, tokens);
    if (tokens < 0) account.hasFreed = true;
  }

  /** Give back what was taken as debt: to the debt, or where that is repaid, to the payment's lots.
   *
   * It is remembered where it went. */
  #repay(tokens: number): void {
    const { account, operation } = this.of;
    const debt = Math.min(account.debt, tokens);
    account.post(operation, "reversals", debt);
    remember(this.payment, undefined, -debt);
    let left = tokens - debt;
    for (const lot of this.own) {
      const part = Math.min(left, lot.granted - lot.tokens - lot.pending);
      this.#move(lot.number, -part);
      left -= part;
    }
    if (left === 0) return;
    const again = account.credit(operation, { source: "purchase", tokens: left, counter: "reversals" });
    remember(this.payment, again.number, -left);
  }

  /** Return what is taken of each lot; one that was given more than was taken counts as 0.
   *
   * It was given what had been taken elsewhere: as debt, of other lots, or of the payment's own. */
  #before(): Payment["taken"] {
    const { taken } = this.payment;
    let given = sum([...taken.values()].map((tokens) => Math.max(-tokens, 0)));
    const left = new Map([...taken].map(([number, tokens]) => [number, Math.max(tokens, 0)]));
    const own = this.own.map(({ number }) => number);
    const others = [...left.keys()].filter((number) => number !== undefined && !own.includes(number));
    for (const number of [undefined, ...others.reverse(), ...own.toReversed()]) {
      const part = Math.min(left.get(number) ?? 0, given);
      if (part > 0) left.set(number, left.get(number)! - part);
      given -= part;
    }
    return left;
  }
}

function remember({ taken }: Payment, number: number | undefined, tokens: number): void {
  if (tokens !== 0) taken.set(number, (taken.get(number) ?? 0) + tokens);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, one) => all + one, 0);
}
