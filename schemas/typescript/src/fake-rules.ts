// The rules of the fake: what each command moves, and why it is rejected.

import type { FakeAccount, Hold } from "./fake-account.js";
import { sumOf } from "./fake-account.js";
import { applied, rejected, short, timeOf } from "./fake-decisions.js";
import type { Case, Decision, Of, Single } from "./fake-decisions.js";
import { eventDecided, freezeOrNot, naming, purchase, takeIn } from "./fake-payments.js";
import type { EventCommand, FreezingCommand } from "./fake-payments.js";
import { cancel, change, renew } from "./fake-subscriptions.js";
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
    account.count(quota, units.freeQuantity);
    if (units.freeQuantity > 0) {
      ledger.counted.set(referenceId, { quota, period: account.period.start, left: units.freeQuantity });
    }
    account.take(operation, "usage", tokens, now);
    return applied("usage_recorded", tokens, { ...detail, used: used + units.freeQuantity });
  },

  "usage.free_upload": ({ referenceId, bytes }, { ledger, account }) => {
    const [limit, used, free] = [account.limit(UPLOAD), account.used(UPLOAD), account.free(UPLOAD)];
    if (bytes > free) return short(bytes, free, "free_upload_limit_exceeded", { used, limit });
    account.count(UPLOAD, bytes);
    if (bytes > 0)
      ledger.counted.set(referenceId, { quota: UPLOAD, period: account.period.start, left: bytes });
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
    const freeNow = counted?.period === account.period.start ? free : 0;
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
    account.count(counted.quota, -units);
    return applied("tokens_refunded", tokens, { ...detail, freeQuantity: units });
  },

  "credit.bonus": ({ tokens, effectiveAt, expiresAt, priority }, { account, operation, now }) => {
    const [begin, end] = [timeOf(effectiveAt) ?? now, timeOf(expiresAt)];
    if (end !== undefined && end <= now) return rejected("credit_expired", { expiresAt: iso(end) });
    const detail = end === undefined ? {} : { expiresAt: iso(end) };
    const made = { source: "bonus", priority, expiresAt: end };
    account.schedule({ at: Math.max(begin, now), operation, counter: "bonus", tokens, made });
    if (begin <= now) return applied("bonus_granted", tokens, detail);
    return applied("bonus_scheduled", tokens, { ...detail, effectiveAt: iso(begin) });
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

  "subscription.change": change,
  "subscription.renew": renew,
  "subscription.cancel": cancel,

  // -- payments --------------------------------------------------------------------------------------------

  "payment.succeeded": purchase,
  "payment.named": naming,
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
