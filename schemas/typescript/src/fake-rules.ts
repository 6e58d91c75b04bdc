// The rules of the fake: what each command moves, and why it is rejected.

import type { FakeAccount, Hold } from "./fake-account.js";
import { sumOf } from "./fake-account.js";
import { DAY_MS, applied, rejected, short, timeOf } from "./fake-decisions.js";
import type { Case, Decision, Of, Single } from "./fake-decisions.js";
import { eventDecided, freezeOrNot, purchase, takeIn } from "./fake-payments.js";
import type { EventCommand, FreezingCommand } from "./fake-payments.js";
import { iso } from "./formats.js";

/** Commands that are decided elsewhere, or that the fake does not know and says so. */
type Unknown = "account.open" | "account.import";

type Rules = {
  [T in Exclude<Single["type"], Unknown>]: (command: Of<T>, of: Case) => Decision;
};

export const RULES: Rules = {
  "account.settle": (_command, of) => {
    const own = of.ledger.payments.all.filter(({ userId }) => userId === of.account.userId);
    for (const payment of own) takeIn(payment, of); // events whose name was given to it later
    return applied("account_settled", 0);
  },

  "account.freeze": frozen,
  "account.unfreeze": frozen,

  // -- usage -----------------------------------------------------------------------------------------------

  "usage.deduct": ({ tokens }, { account, operation, now }) => {
    if (!account.canPay(tokens)) return short(tokens, account.available);
    account.take(operation, "usage", tokens, now);
    return applied("tokens_deducted", tokens);
  },

  "usage.record": ({ referenceId, meter, quantity }, { ledger, account, operation, now }) => {
    const price = ledger.price(meter, quantity, account);
    if (price === undefined) return rejected("unknown_meter", { meter });
    const { quota, tokens, ...units } = price;
    const [limit, used] = [account.limit(quota), account.used(quota)];
    const detail = { meter, quantity, ...units, limit, used };
    if (!account.canPay(tokens)) return short(tokens, account.available, "insufficient_balance", detail);
    account.quotaUsed.set(quota, used + units.freeQuantity);
    if (units.freeQuantity > 0) {
      ledger.counted.set(referenceId, { quota, period: account.period, left: units.freeQuantity });
    }
    account.take(operation, "usage", tokens, now);
    return applied("usage_recorded", tokens, { ...detail, used: used + units.freeQuantity });
  },

  "usage.free_upload": ({ referenceId, bytes }, { ledger, account }) => {
    const [limit, used, free] = [account.limit(UPLOAD), account.used(UPLOAD), account.free(UPLOAD)];
    if (bytes > free) return short(bytes, free, "free_upload_limit_exceeded", { used, limit });
    account.quotaUsed.set(UPLOAD, used + bytes);
    if (bytes > 0) ledger.counted.set(referenceId, { quota: UPLOAD, period: account.period, left: bytes });
    return applied("free_upload_counted", bytes, { used: used + bytes, limit });
  },

  "usage.reserve": ({ referenceId, tokens, ttlSeconds }, { account, now }) => {
    if (!account.canPay(tokens)) return short(tokens, account.available);
    const expiresAt = now + ttlSeconds * 1_000;
    account.holds.set(referenceId, { tokens, expiresAt, state: "open" });
    return applied("tokens_reserved", tokens, { expiresAt: iso(expiresAt) });
  },

  "usage.extend": ({ originalReferenceId, ttlSeconds }, of) =>
    ofHold(originalReferenceId, of, (hold) => {
      hold.expiresAt = Math.max(hold.expiresAt, of.now + ttlSeconds * 1_000);
      return applied("hold_extended", hold.tokens, { expiresAt: iso(hold.expiresAt) });
    }),

  "usage.release": ({ originalReferenceId }, of) =>
    ofHold(originalReferenceId, of, (hold) => {
      hold.state = "released";
      return applied("hold_released", hold.tokens);
    }),

  "usage.settle": ({ originalReferenceId, tokens, onExcess, onExpired }, of) => {
    const { account, operation, now } = of;
    const settled = (hold: Hold): Decision => {
      if (hold.state === "expired") return settledLate(tokens, hold, of);
      const excess = tokens - hold.tokens;
      if (excess > 0 && onExcess !== "take") return short(tokens, hold.tokens, "hold_exceeded");
      if (excess > account.available) return short(tokens, hold.tokens + account.available);
      hold.state = "settled";
      account.take(operation, "usage", tokens, now);
      return applied("hold_settled", tokens, { released: Math.max(-excess, 0) });
    };
    return ofHold(originalReferenceId, of, settled, onExpired === "refuse" ? ["open"] : ["open", "expired"]);
  },

  // -- credit ----------------------------------------------------------------------------------------------

  "credit.refund": (command, { ledger, account, operation, now }) => {
    const { referenceId, originalReferenceId, freeQuantity } = command;
    if (originalReferenceId == null) return rejected("original_required");
    const detail = { originalReferenceId };
    const original = ledger.outcome(originalReferenceId);
    if (original?.userId !== account.userId) return rejected("original_not_found", detail);
    const isOriginal = (id: string): boolean => id === originalReferenceId;
    const ofOriginal = account.entries.filter((entry) => isOriginal(entry.operation.referenceId));
    const taken = 0 - sumOf(ofOriginal.filter((entry) => entry.counter === "usage"));
    const counted = ledger.counted.get(originalReferenceId);
    const free = counted?.left ?? 0;
    const freeNow = counted?.period === account.period ? free : 0;
    if (taken === 0 && counted === undefined) return rejected("original_not_refundable", detail);
    const refunds = account.entries.filter((entry) =>
      isOriginal(ledger.refunded.get(entry.operation.referenceId) ?? ""),
    );
    const left = taken - sumOf(refunds);
    if (freeQuantity != null && freeQuantity > free) {
      return short(freeQuantity, free, "refund_exceeds_original", { ...detail, field: "freeQuantity" });
    }
    if (command.tokens > left && (freeQuantity != null || freeNow === 0)) {
      return short(command.tokens, left, "refund_exceeds_original", detail);
    }
    const tokens = Math.min(command.tokens, left);
    const units = Math.min(freeQuantity ?? (tokens === left ? freeNow : 0), freeNow);
    if (tokens === 0 && units === 0) return rejected("original_not_refundable", detail);
    ledger.refunded.set(referenceId, originalReferenceId);
    if (tokens > 0) account.credit(operation, "refunds", tokens, now, { source: "refund" });
    if (counted === undefined) return applied("tokens_refunded", tokens, detail);
    counted.left -= units;
    account.quotaUsed.set(counted.quota, account.used(counted.quota) - units);
    return applied("tokens_refunded", tokens, { ...detail, freeQuantity: units });
  },

  "credit.bonus": ({ tokens, effectiveAt, expiresAt, priority }, { account, operation, now }) => {
    const [begin, end] = [timeOf(effectiveAt) ?? now, timeOf(expiresAt)];
    if (end !== undefined && end <= now) return rejected("credit_expired", { expiresAt: iso(end) });
    const detail = end === undefined ? {} : { expiresAt: iso(end) };
    const at = Math.max(begin, now);
    const credit = (): void =>
      account.credit(operation, "bonus", tokens, at, { source: "bonus", priority, expiresAt: end });
    if (begin <= now) {
      credit();
      return applied("bonus_granted", tokens, detail);
    }
    account.scheduled.push({ at, tokens, operation, credit });
    return applied("bonus_scheduled", tokens, { ...detail, effectiveAt: iso(at) });
  },

  "credit.adjust": ({ tokens, expiresAt, reason, actor, allowNegative }, { account, operation, now }) => {
    const [end, detail] = [timeOf(expiresAt), { reason, actor }];
    if (end !== undefined && end <= now)
      return rejected("credit_expired", { expiresAt: iso(end), ...detail });
    if (tokens > 0) {
      account.credit(operation, "adjustments", tokens, now, { source: "adjustment", expiresAt: end });
      return applied("adjustment_credited", tokens, detail);
    }
    if (!account.canPay(-tokens) && allowNegative !== true)
      return short(-tokens, account.available, "insufficient_balance", detail);
    account.take(operation, "adjustments", -tokens, now);
    return applied("adjustment_debited", -tokens, detail);
  },

  // -- subscriptions ---------------------------------------------------------------------------------------

  "subscription.change": (command, { ledger, account, operation, now }) => {
    const tier = ledger.tier(command.tier);
    if (tier === undefined) return rejected("unknown_tier", { tier: command.tier });
    const granted = account.grantedPeriod === account.period ? account.granted : 0;
    const more = Math.max(tier.monthlyTokens - granted, 0);
    const previousTier = account.tier.id;
    Object.assign(account, { tier, endsAt: Infinity, grantedPeriod: account.period });
    account.granted = Math.max(account.granted, tier.monthlyTokens);
    account.allocate(operation, more, now);
    const periodEnd = iso(account.periodEnd);
    return applied("subscription_changed", more, { tier: tier.id, previousTier, periodEnd });
  },

  "subscription.cancel": ({ at }, { account, operation, now }) => {
    if (account.endsAt !== Infinity) return rejected("subscription_not_active");
    account.endsAt = at === "now" ? now : account.periodEnd;
    const ended = at === "now" ? account.endAllocation(operation, now) : 0;
    return applied("subscription_canceled", ended, { periodEnd: iso(account.endsAt) });
  },

  /** Grant the present period, or the next one within a day of its beginning. */
  "subscription.renew": (command, { account, operation, now }) => {
    if (account.endsAt !== Infinity) return rejected("subscription_not_active");
    const { monthlyTokens, id: tier } = account.tier;
    const { period, periodEnd, grantedPeriod } = account;
    const isNear = periodEnd - now <= DAY_MS && grantedPeriod >= period;
    const named = timeOf(command.periodStart) ?? now;
    const number = account.periodAt(named) === period && isNear ? period + 1 : account.periodAt(named);
    const detail = {
      periodStart: iso(account.periodStart(number)),
      periodEnd: iso(account.periodStart(number + 1)),
    };
    const grant = (at: number): void => account.grant(operation, number, at);
    if (number <= grantedPeriod) return rejected("period_already_granted", detail);
    if (number === period) {
      grant(now);
      return applied("subscription_renewed", monthlyTokens, { tier, ...detail });
    }
    if (number !== period + 1 || !isNear) return rejected("period_out_of_range", { periodStart: iso(named) });
    account.grantedPeriod = number;
    account.scheduled.push({
      at: periodEnd,
      tokens: monthlyTokens,
      operation,
      credit: () => grant(periodEnd),
    });
    return applied("renewal_scheduled", monthlyTokens, { tier, ...detail });
  },

  // -- payments --------------------------------------------------------------------------------------------

  "payment.succeeded": purchase,
  "payment.refunded": ofPayment,
  "payment.refund_failed": ofPayment,
  "payment.disputed": ofPayment,
  "payment.dispute_closed": ofPayment,
  "payment.failed": ofPayment,
};

const UPLOAD = "free_upload";

/** Usage that a frozen account takes none of. Work under a hold that is open may still end. */
const FROZEN = new Set<Single["type"]>(
  (["deduct", "free_upload", "record", "reserve", "extend"] as const).map((name) => `usage.${name}` as const),
);

/** Return the refusal of usage while the account is frozen. */
export function frozenRefusal({ type }: Single, { frozenAt }: FakeAccount): Decision | undefined {
  return frozenAt !== undefined && FROZEN.has(type) ? rejected("account_frozen") : undefined;
}

function frozen(command: FreezingCommand, of: Case): Decision {
  return freezeOrNot(command, of.now, of);
}

/** Decide about an event of a payment that is there. */
function ofPayment(command: EventCommand, of: Case): Decision {
  return eventDecided(command, of.ledger.payments.named(command.originalReferenceId)!, of);
}

/** Decide about a hold of the account that has not ended. */
function ofHold(
  originalReferenceId: string,
  { account }: Case,
  rule: (hold: Hold) => Decision,
  states: readonly Hold["state"][] = ["open"],
): Decision {
  const hold = account.holds.get(originalReferenceId);
  if (hold === undefined) return rejected("hold_not_found", { originalReferenceId });
  const { state } = hold;
  if (!states.includes(state)) return rejected("hold_closed", { originalReferenceId, state });
  return { originalReferenceId, ...rule(hold) };
}

/** Take what is available for work whose hold ran out before. */
function settledLate(required: number, hold: Hold, { account, operation, now }: Case): Decision {
  const available = Math.max(account.available, 0);
  const taken = Math.min(required, available);
  hold.state = "settled";
  account.take(operation, "usage", taken, now);
  return applied("hold_settled_late", taken, { required, available, shortfall: required - taken });
}
