// Holds of the fake: tokens that lots keep for work to come, or of a disputed payment.

import { iso } from "../formats.js";
import type { FakeAccount } from "./account.js";
import { applied, rejected, short } from "./decisions.js";
import type { Case, Decision, Of } from "./decisions.js";
import type { Lot } from "./lots.js";

/** Tokens that are kept, in parts of lots in the order to be spent. */
export interface Hold {
  readonly tokens: number;
  readonly parts: readonly { readonly lot: number; readonly tokens: number }[];
  readonly openedAt: number;
  expiresAt: number;
  state: "open" | "settled" | "released" | "expired";
  /** Payment that is disputed; no usage can end its hold. */
  readonly payment?: string;
}

/** Keep up to so many free tokens of lots; nothing where none is free. */
export function keep(
  account: FakeAccount,
  id: string,
  lots: readonly Lot[],
  tokens: number,
  hold: Pick<Hold, "expiresAt" | "payment">,
): void {
  let left = tokens;
  const parts: { lot: number; tokens: number }[] = [];
  for (const lot of lots) {
    const part = Math.min(lot.free, left);
    left -= part;
    lot.held += part;
    if (part > 0) parts.push({ lot: lot.number, tokens: part });
  }
  if (parts.length === 0) return;
  account.holds.set(id, { ...hold, tokens: tokens - left, parts, openedAt: account.clock(), state: "open" });
}

/** End a hold; its tokens are free again. */
export function closeHold(account: FakeAccount, hold: Hold, state: Exclude<Hold["state"], "open">): void {
  hold.state = state;
  for (const { lot, tokens } of hold.parts) account.lot(lot).held -= tokens;
  account.hasFreed = true; // while all of a lot was held, its expiry was not waited for
}

export function reserve({ referenceId, tokens, ttlSeconds }: Of<"usage.reserve">, of: Case): Decision {
  const { account, now } = of;
  if (!account.canPay(tokens)) return short(tokens, account.available);
  const expiresAt = now + ttlSeconds * 1_000;
  keep(account, referenceId, account.burning(), tokens, { expiresAt });
  return applied("tokens_reserved", tokens, { expiresAt: iso(expiresAt) });
}

export function extend({ originalReferenceId, ttlSeconds }: Of<"usage.extend">, of: Case): Decision {
  return ofHold(originalReferenceId, of, (hold) => {
    hold.expiresAt = Math.max(hold.expiresAt, of.now + ttlSeconds * 1_000);
    return applied("hold_extended", hold.tokens, { expiresAt: iso(hold.expiresAt) });
  });
}

export function release({ originalReferenceId }: Of<"usage.release">, of: Case): Decision {
  return ofHold(originalReferenceId, of, (hold) => {
    closeHold(of.account, hold, "released");
    return applied("hold_released", hold.tokens);
  });
}

/** Capture what was used of a hold, also where its lots have expired meanwhile. */
export function capture(command: Of<"usage.settle">, of: Case): Decision {
  const { account, operation } = of;
  const { tokens, onExcess, onExpired, originalReferenceId } = command;
  const captured = (hold: Hold): Decision => {
    const excess = tokens - hold.tokens;
    if (excess > 0 && onExcess !== "take") return short(tokens, hold.tokens, "hold_exceeded");
    if (hold.state === "expired") return captureLate(tokens, hold, of);
    if (excess > 0 && excess > account.available) return short(tokens, hold.tokens + account.available);
    closeHold(account, hold, "settled");
    let left = Math.min(tokens, hold.tokens);
    for (const { lot, tokens: kept } of hold.parts) {
      const part = Math.min(kept, left);
      left -= part;
      account.post(operation, "usage", -part, account.lot(lot));
    }
    if (excess > 0) account.take(operation, "usage", excess);
    return applied("hold_settled", tokens, { released: Math.max(-excess, 0) });
  };
  return ofHold(originalReferenceId, of, captured, onExpired === "refuse" ? ["open"] : ["open", "expired"]);
}

/** Take what is available for work whose hold ran out before. */
function captureLate(required: number, hold: Hold, { account, operation }: Case): Decision {
  const { available } = account;
  const taken = Math.min(required, Math.max(available, 0));
  hold.state = "settled";
  account.take(operation, "usage", taken);
  return applied("hold_settled_late", taken, { required, available, shortfall: required - taken });
}

/** Decide about a hold of the account's usage that has not ended. */
function ofHold(
  originalReferenceId: string,
  { account }: Case,
  rule: (hold: Hold) => Decision,
  states: readonly Hold["state"][] = ["open"],
): Decision {
  const hold = account.holds.get(originalReferenceId);
  if (hold === undefined || hold.payment !== undefined)
    return rejected("hold_not_found", { originalReferenceId });
  const { state } = hold;
  if (!states.includes(state)) return rejected("hold_closed", { originalReferenceId, state });
  return { originalReferenceId, ...rule(hold) };
}
