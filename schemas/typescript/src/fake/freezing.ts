// Frozen accounts of the fake: usage and holds are rejected, credit is posted.

import type { FakeAccount } from "./account.js";
import { applied, rejected, timeOf } from "./decisions.js";
import type { Case, Decision, Of, Single } from "./decisions.js";

export type FreezingCommand = Of<"account.freeze" | "account.unfreeze">;

/** Usage that a frozen account takes none of. Work under a hold that is open may still end. */
const FROZEN = new Set<Single["type"]>(
  (["deduct", "free_upload", "record", "reserve", "extend"] as const).map((name) => `usage.${name}` as const),
);

/** Return the refusal of usage while the account is frozen. */
export function frozenRefusal({ type }: Single, { frozenAt }: FakeAccount): Decision | undefined {
  return frozenAt !== undefined && FROZEN.has(type) ? rejected("account_frozen") : undefined;
}

export function isFreezing(command: Single): command is FreezingCommand {
  return command.type === "account.freeze" || command.type === "account.unfreeze";
}

export function decideFreezing(command: FreezingCommand, { account, now }: Case): Decision {
  freezeOrNot(command, timeOf(command.occurredAt) ?? now, account);
  const code = account.frozenAt === undefined ? "freeze_ended" : "freeze_began";
  return applied(code, 0, { paymentReferenceId: command.paymentReferenceId ?? undefined });
}

/** Freeze an account as of `at`, or let it be used again: the latest word counts, of two at one time the freeze. */
export function freezeOrNot({ type }: FreezingCommand, at: number, account: FakeAccount): void {
  if (type === "account.freeze") {
    if (account.unfrozenAt <= at) account.frozenAt = Math.max(at, account.frozenAt ?? at);
    return;
  }
  account.unfrozenAt = Math.max(at, account.unfrozenAt);
  if (account.frozenAt !== undefined && account.frozenAt < at) account.frozenAt = undefined;
}
