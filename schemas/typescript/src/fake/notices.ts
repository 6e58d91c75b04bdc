// Notices of the fake: a balance that falls to a mark, credit that expires soon, and a rejected payment.

import { iso } from "../formats.js";
import type { Command, Notice, Reply } from "../generated/contract.js";
import type { FakeAccount } from "./account.js";
import { DAY_MS } from "./decisions.js";

/** A notice before it is sent. */
export type News = Pick<Notice, "type"> &
  Partial<Omit<Notice, "type" | "id" | "schemaVersion" | "userId" | "referenceId" | "recordedAt">>;

/** Return the notices that are due after a command, and remember that they are written. */
export function writeNotices(account: FakeAccount): News[] {
  return [...expiring(account), ...compareBalance(account)];
}

function expiring(account: FakeAccount): News[] {
  const [now, aheadMs] = [account.clock(), account.terms.notices.expiringDays * DAY_MS];
  const isDue = ({ endsAt }: { endsAt: number }): boolean => endsAt - aheadMs <= now && now < endsAt;
  const lots = account.lots.filter((lot) => lot.tokens > 0 && !lot.isNoticed && lot.source !== "allocation");
  return (aheadMs === 0 ? [] : lots.filter(isDue)).map((lot) => {
    lot.isNoticed = true;
    const { number, tokens, source, expiresAt } = lot;
    return { type: "credit.expiring", lot: number, tokens, source, expiresAt: iso(expiresAt) };
  });
}

/** Return notices of marks that the balance has fallen to; another one only after a recovery. */
export function compareBalance({ available, alerts, terms }: FakeAccount): News[] {
  const marks = [
    ["balance.low", terms.notices.low],
    ["balance.depleted", terms.notices.depleted],
  ] as const;
  return marks.flatMap(([type, mark]) => {
    if (mark == null) return [];
    if (alerts.has(type)) {
      if (available >= mark.againFrom) alerts.delete(type);
      return [];
    }
    if (available > mark.at) return [];
    alerts.add(type);
    return [{ type, available, mark: mark.at }];
  });
}

/** Return the notice of money without tokens: a rejected payment, also of a subscription, or event of one. */
export function rejectedPayment(command: Command, reply: Reply): News[] {
  const payment = "payment" in command ? command.payment : undefined;
  if (payment == null && !command.type.startsWith("payment.")) return [];
  if (reply.status !== "rejected") return [];
  const { amountMinor, refundedTotalMinor, currency } = (payment ?? command) as Money;
  const money = amountMinor ?? refundedTotalMinor ?? undefined;
  return [{ type: "payment.rejected", code: reply.code, amountMinor: money, currency }];
}

/** Money that a command or a payment may name. */
interface Money {
  readonly amountMinor?: number | null;
  readonly refundedTotalMinor?: number | null;
  readonly currency?: string;
}
