// Credit of the fake that is given, given back, or corrected by hand.

import { iso } from "../formats.js";
import { applied, rejected, short, timeOf } from "./decisions.js";
import type { Case, Decision, Of } from "./decisions.js";

const REFUNDABLE = new Set(["usage.deduct", "usage.settle", "usage.record", "usage.free_upload"]);

/** Give tokens back to the lots they were taken from, the last first, and free units to their period. */
export function refund(command: Of<"credit.refund">, of: Case): Decision {
  const { ledger, account, operation } = of;
  const { originalReferenceId, freeQuantity } = command;
  if (originalReferenceId == null) return refundUnbound(command, of);
  const detail = { originalReferenceId };
  const original = ledger.outcome(originalReferenceId);
  if (original?.reply.userId !== account.userId) return rejected("original_not_found", detail);
  if (original.reply.status !== "applied" || !REFUNDABLE.has(original.command.type))
    return rejected("original_not_refundable", detail);
  const taken = account.entries.filter(
    (entry) => entry.operation === original.operation && entry.counter === "usage",
  );
  const refunded = ledger.refunded.get(originalReferenceId) ?? 0;
  const left = taken.reduce((sum, entry) => sum - entry.amount, -refunded);
  const counted = ledger.counted.get(originalReferenceId);
  const free = counted?.left ?? 0;
  const freeNow = counted?.period.start === account.period.start ? free : 0;
  if (freeQuantity != null && freeQuantity > free)
    return short(freeQuantity, free, "refund_exceeds_original", { ...detail, field: "freeQuantity" });
  if (command.tokens > left && (freeQuantity != null || freeNow === 0))
    return short(command.tokens, left, "refund_exceeds_original", detail);
  const tokens = Math.min(command.tokens, left);
  const units = Math.min(freeQuantity ?? (tokens === left ? freeNow : 0), freeNow);
  if (tokens === 0 && units === 0) return rejected("original_not_refundable", detail);

  let [skip, back] = [refunded, tokens];
  for (const entry of taken.toReversed()) {
    const skipped = Math.min(skip, -entry.amount);
    const part = Math.min(-entry.amount - skipped, back);
    skip -= skipped;
    back -= part;
    const repaid = Math.min(account.debt, part);
    account.post(operation, "refunds", repaid);
    account.post(operation, "refunds", part - repaid, account.lot(entry.lot!));
    account.hasFreed = true;
  }
  ledger.refunded.set(originalReferenceId, refunded + tokens);
  if (counted === undefined) return applied("tokens_refunded", tokens, detail);
  counted.left -= units;
  account.count(counted.quota, -units, counted.period);
  return applied("tokens_refunded", tokens, { ...detail, freeQuantity: units });
}

/** Credit a refund that names no usage, where the catalog allows it. */
function refundUnbound(
  { tokens, freeQuantity }: Of<"credit.refund">,
  { account, operation }: Case,
): Decision {
  const isEmpty = tokens === 0 || Boolean(freeQuantity); // free units are of a usage
  if (account.terms.refunds.unbound === "refuse" || isEmpty) return rejected("original_required");
  account.credit(operation, { source: "refund", tokens });
  return applied("tokens_refunded", tokens);
}

export function bonus(command: Of<"credit.bonus">, { account, operation, now }: Case): Decision {
  const { tokens, priority } = command;
  const [begin, end] = [timeOf(command.effectiveAt) ?? now, timeOf(command.expiresAt)];
  const detail = end === undefined ? {} : { expiresAt: iso(end) };
  if (end !== undefined && end <= now) return rejected("credit_expired", detail);
  const credit = { source: "bonus", tokens, priority, expiresAt: end } as const;
  if (begin > now) {
    account.schedule(operation, { ...credit, effectiveAt: begin });
    return applied("bonus_scheduled", tokens, { ...detail, effectiveAt: iso(begin) });
  }
  account.credit(operation, credit);
  return applied("bonus_granted", tokens, detail);
}

export function adjust(command: Of<"credit.adjust">, { account, operation, now }: Case): Decision {
  const { tokens, reason, actor, allowNegative } = command;
  const [end, detail] = [timeOf(command.expiresAt), { reason, actor }];
  if (tokens > 0) {
    if (end !== undefined && end <= now)
      return rejected("credit_expired", { expiresAt: iso(end), ...detail });
    account.credit(operation, { source: "adjustment", tokens, expiresAt: end });
    return applied("adjustment_credited", tokens, detail);
  }
  if (-tokens > account.available && allowNegative !== true)
    return short(-tokens, account.available, "insufficient_balance", detail);
  account.owe(operation, "adjustments", account.take(operation, "adjustments", -tokens));
  return applied("adjustment_debited", -tokens, detail);
}
