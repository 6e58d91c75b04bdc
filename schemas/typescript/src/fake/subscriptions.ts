// Subscriptions of the fake: another tier, another period, the end. A period is granted once, and *ahead* while
// its tokens wait for it to begin.

import type { FakeAccount } from "./account.js";
import { AHEAD_MS } from "./calendar.js";
import type { Period } from "./calendar.js";
import { isLate } from "./cancellations.js";
import { applied, rejected, timeOf } from "./decisions.js";
import type { Case, Decision, Of } from "./decisions.js";
import { allocation } from "./due.js";
import type { Lot } from "./lots.js";
import { nameTaken, recorded } from "./payments.js";
import { iso } from "../formats.js";
import type { CatalogTier } from "../generated/contract.js";

type Change = Of<"subscription.change">;
type Renewal = Of<"subscription.renew">;

// -- another tier ------------------------------------------------------------------------------------------

/** Change the tier: grant what the new one gives beyond what this period has had already. */
export function change(command: Change, of: Case): Decision {
  const { ledger, account, now } = of;
  const tier = ledger.tier(command.tier);
  if (tier === undefined) return rejected("unknown_tier", { tier: command.tier });
  const refused = command.payment == null ? undefined : nameTaken(command.payment, of);
  if (refused !== undefined) return refused;
  if (command.effectiveAt === "period_end") {
    if (account.hasEnded) return rejected("subscription_not_active");
    return changeLater(tier, paidUntil(of), of);
  }
  const period = gatewaysPeriod(command);
  if (period !== undefined && !isOpen(period, now)) return rejected("period_out_of_range", named(period));
  const isNew = period !== undefined && !account.calendar.isGrantedToGateway(period);
  const decision = isNew ? changeWithPeriod(tier, period, of) : changeNow(command, tier, of);
  return withPayment(command, decision, of);
}

/** Change the tier within what is granted, which is never taken back. */
function changeNow(command: Change, tier: CatalogTier, of: Case): Decision {
  const { account, now } = of;
  const { calendar } = account;
  if (calendar.lastStart > now) return changeAhead(tier, calendar.lastStart, of);
  if (now >= calendar.grantedUntil) {
    calendar.beginOwn(calendar.allocationPeriod(now), now);
    account.periodGranted = 0;
  } else if (command.payment != null && account.hasEnded) {
    account.periodGranted = 0; // it is paid once more
  }
  const [more, previousTier] = [moreOf(tier, of), account.tier.id];
  setTier(account, tier);
  grant(more, { start: now, end: calendar.grantedUntil }, of);
  const periodEnd = iso(calendar.grantedUntil);
  return applied("subscription_changed", more, { tier: tier.id, previousTier, periodEnd });
}

/** Change the tier while the next period is granted: an upgrade comes with that, any other tier after it. */
function changeAhead(tier: CatalogTier, ahead: number, of: Case): Decision {
  const { account } = of;
  const { next, calendar } = account;
  const then = next !== undefined && next.at <= ahead ? next.tier : account.tier;
  const more = moreOf(tier, of);
  const at = more > 0 || tier.id === then.id ? ahead : calendar.grantedUntil;
  grant(more, { start: ahead, end: calendar.grantedUntil }, of);
  return { ...changeLater(tier, at, of), amount: more };
}

/** Change the tier with the beginning of a gateway's period, and grant all that it gives. */
function changeWithPeriod(tier: CatalogTier, period: Period, of: Case): Decision {
  const { account, now } = of;
  const previousTier = account.tier.id;
  account.endsAt = Infinity;
  const starts = grantGateways(tier.monthlyTokens, period, of);
  if (starts > now) return { ...changeLater(tier, starts, of), amount: tier.monthlyTokens, ...named(period) };
  setTier(account, tier);
  const detail = { tier: tier.id, previousTier, ...named(period) };
  return applied("subscription_changed", tier.monthlyTokens, detail);
}

/** Let a tier take the place of the present one at `at`, which keeps all of its own until then. */
function changeLater(tier: CatalogTier, at: number, { account }: Case): Decision {
  const { next } = account;
  if (next !== undefined && next.at < at) account.tier = next.tier; // of a period granted ahead, which isn't lost
  Object.assign(account, { next: { tier, at }, endsAt: Infinity });
  const detail = { tier: tier.id, previousTier: account.tier.id, effectiveAt: iso(at) };
  return applied("change_scheduled", 0, detail);
}

/** Return what a tier gives beyond the most that was granted in this period; it counts as granted. */
function moreOf(tier: CatalogTier, { account }: Case): number {
  const more = Math.max(tier.monthlyTokens - account.periodGranted, 0);
  account.periodGranted += more;
  return more;
}

/** Set the tier; neither another one nor an end is waited for. */
function setTier(account: FakeAccount, tier: CatalogTier): void {
  Object.assign(account, { tier, next: undefined, endsAt: Infinity });
}

/** Return the end of what is granted, or of the present period where nothing is. */
function paidUntil({ account: { calendar }, now }: Case): number {
  return now < calendar.grantedUntil ? calendar.grantedUntil : calendar.allocationPeriod(now).end;
}

// -- another period ----------------------------------------------------------------------------------------

/** Grant a period's allocation once: the present one's, or the next one's within a day of its start. */
export function renew(command: Renewal, of: Case): Decision {
  const { account, now } = of;
  if (account.endsAt !== Infinity) return rejected("subscription_not_active");
  const refused = command.payment == null ? undefined : nameTaken(command.payment, of);
  if (refused !== undefined) return refused;
  const gateways = gatewaysPeriod(command);
  const period =
    gateways === undefined ? ownPeriod(timeOf(command.periodStart) ?? now, of) : fresh(gateways, of);
  if ("status" in period) return period;
  const tier = tierOf(period, gateways !== undefined, of);
  const starts =
    gateways === undefined
      ? grantOwn(tier.monthlyTokens, period, of)
      : grantGateways(tier.monthlyTokens, period, of);
  const { next } = account;
  if (gateways !== undefined && next !== undefined && period.start < next.at - AHEAD_MS)
    next.at = period.start;
  const code = starts > now ? "renewal_scheduled" : "subscription_renewed";
  const decision = applied(code, tier.monthlyTokens, { tier: tier.id, ...named(period) });
  return withPayment(command, decision, of);
}

/** Return the period of the account's own calendar that a renewal is about, or the refusal. */
function ownPeriod(at: number, { account: { calendar }, now }: Case): Period | Decision {
  const present = calendar.allocationPeriod(now);
  const earliest = calendar.earliest(now);
  const isNear = earliest - AHEAD_MS <= at && at <= now + AHEAD_MS;
  if (!isNear && !(present.start <= at && at < present.end))
    return rejected("period_out_of_range", { periodStart: iso(at) });
  let period = calendar.allocationPeriod(Math.max(at, earliest));
  const isPresent = period.start === present.start;
  const isAboutNext = period.end - at <= AHEAD_MS || (isPresent && at - present.start > AHEAD_MS);
  if (period.end <= calendar.grantedUntil && isAboutNext && period.end - now <= AHEAD_MS)
    period = calendar.allocationPeriod(period.end);
  if (period.end <= calendar.grantedUntil) return rejected("period_already_granted", named(period));
  const isNext = period.start === present.end && calendar.grantedUntil >= period.start;
  if (period.start !== present.start && !isNext) return rejected("period_out_of_range", named(period));
  return period;
}

/** Return a gateway's own period where it can be granted, or the refusal. */
function fresh(period: Period, { account: { calendar }, now }: Case): Period | Decision {
  if (calendar.isGrantedToGateway(period)) return rejected("period_already_granted", named(period));
  return isOpen(period, now) ? period : rejected("period_out_of_range", named(period));
}

/** Return the tier of a period: the one that was chosen for the time from it on, or the present one. */
function tierOf(period: Period, isGateways: boolean, { account: { next, tier } }: Case): CatalogTier {
  return next !== undefined && (isGateways || period.start > next.at - AHEAD_MS) ? next.tier : tier;
}

/** Grant a period of the account's own calendar; return when its tokens take effect. */
function grantOwn(tokens: number, period: Period, of: Case): number {
  const { account, now } = of;
  const starts = period.start === account.calendar.allocationPeriod(now).start ? now : period.start;
  account.calendar.beginOwn(period, now);
  account.periodGranted = tokens;
  grant(tokens, period, of, starts > now);
  return starts;
}

/** Grant a period that a gateway named; return when its tokens take effect. */
function grantGateways(tokens: number, period: Period, of: Case): number {
  const { account, now } = of;
  const starts = now < account.calendar.grantedUntil ? period.start : Math.min(period.start, now);
  account.calendar.beginGateways(period, now);
  account.periodGranted = tokens;
  grant(tokens, { start: starts, end: period.end }, of);
  return starts;
}

/** Grant the tokens of a period, which take effect when it begins. */
function grant(tokens: number, period: Period, of: Case, isAhead = period.start > of.now): void {
  if (tokens === 0) return;
  const { account, operation } = of;
  if (isAhead) account.schedule(operation, allocation(tokens, period));
  else account.credit(operation, allocation(tokens, period));
}

// -- the end -----------------------------------------------------------------------------------------------

/** End the subscription: no more periods; what was bought or given otherwise stays. */
export function cancel(command: Of<"subscription.cancel">, of: Case): Decision {
  const { account, now } = of;
  const isNow = command.at === "now";
  if (isLate(command, of)) return cancelLate(command, of);
  if (account.hasEnded || (account.endsAt !== Infinity && !isNow)) return rejected("subscription_not_active");
  const { calendar } = account;
  const ahead = calendar.lastStart;
  account.next = undefined;
  let lost = 0;
  if (!isNow) {
    account.endsAt = Math.max(calendar.grantedUntil, now);
  } else if (ahead > now) {
    lost = giveUp(({ effectiveAt }) => effectiveAt >= ahead, of); // pending, unless a clock ahead began it
    calendar.giveUpAhead(ahead, now);
    account.endsAt = ahead;
    const present = allocations(account).filter((lot) => lot.parent === undefined && lot.expiresAt === ahead);
    account.periodGranted = present.reduce((sum, lot) => sum + lot.granted, 0);
  } else {
    account.endsAt = now;
    lost = giveUp(() => true, of);
    const isFree = account.tier.autoRenew;
    if (now < calendar.grantedUntil)
      account.periodGranted = isFree ? Math.max(account.periodGranted - lost, 0) : 0;
  }
  return applied("subscription_canceled", lost, { periodEnd: iso(account.endsAt) });
}

/** Let a subscription go on that was taken up after this cancellation.
 *
 * One at once ends what is left of periods that had begun by then, unless they are the present one. */
function cancelLate({ at, occurredAt }: Of<"subscription.cancel">, of: Case): Decision {
  const { grantedUntil } = of.account.calendar;
  const isEarlier = ({ effectiveAt, expiresAt }: Lot): boolean =>
    effectiveAt <= timeOf(occurredAt)! && expiresAt !== grantedUntil;
  return applied("cancellation_late", at === "now" ? giveUp(isEarlier, of) : 0);
}

/** End those allocations before their time; return the tokens that expire. */
function giveUp(isOne: (lot: Lot) => boolean, { account, operation, now }: Case): number {
  return allocations(account)
    .filter(isOne)
    .reduce((sum, lot) => {
      const { free } = lot;
      Object.assign(lot, { endedAt: now, pending: 0 });
      account.post(operation, "expiry", -free, lot);
      return sum + free;
    }, 0);
}

/** Return the lots of allocations that haven't ended, also where they are used up. */
function allocations(account: FakeAccount): Lot[] {
  return account.lots.filter(
    (lot) => lot.source === "allocation" && lot.endedAt === Infinity && lot.expiresAt > account.clock(),
  );
}

// -- helpers of all ----------------------------------------------------------------------------------------

function gatewaysPeriod({ periodStart, periodEnd }: Change | Renewal): Period | undefined {
  const [start, end] = [timeOf(periodStart), timeOf(periodEnd)];
  return start === undefined || end === undefined ? undefined : { start, end };
}

/** Return whether a period goes on, or begins within a day. */
function isOpen({ start, end }: Period, now: number): boolean {
  return start <= now + AHEAD_MS && now < end;
}

function named({ start, end }: Period) {
  return { periodStart: iso(start), periodEnd: iso(end) };
}

/** Record the payment of what was granted, where the command carries one. */
function withPayment({ payment }: Change | Renewal, decision: Decision, of: Case): Decision {
  if (payment == null || decision.status === "rejected") return decision;
  return { ...decision, ...recorded(payment, [decision.amount ?? 0, 0], of) };
}
