// Cancellations of the fake that come late: of one and of what takes the subscription up, the later one counts.
// One that doesn't say when it occurred has no place in that order, and is taken as it comes.

import type { Outcome } from "./contents.js";
import { timeOf } from "./decisions.js";
import type { Case, Of } from "./decisions.js";

type Cancellation = Of<"subscription.cancel">;
type TakingUp = Of<"subscription.change" | "subscription.renew">;

/** Return whether a cancellation is before what took the subscription up; of two at one time it goes on.
 *
 * Another tier for the next period takes back an end with this one, and no end at once. */
export function isLate({ at, occurredAt }: Cancellation, { ledger, account }: Case): boolean {
  const moment = timeOf(occurredAt);
  if (moment === undefined) return false;
  return takenUp(ledger.outcomes, account.userId).some((command) => {
    const isScheduled = "effectiveAt" in command && command.effectiveAt === "period_end";
    return timeOf(command.occurredAt)! >= moment && (at === "period_end" || !isScheduled);
  });
}

/** Return what took a user's subscription up, and says when. */
function takenUp(outcomes: readonly Outcome[], userId: string): TakingUp[] {
  return outcomes.flatMap(({ command, reply }) => {
    const isOne = command.type === "subscription.change" || command.type === "subscription.renew";
    const isOfUser = reply.status === "applied" && command.userId === userId;
    return isOne && isOfUser && command.occurredAt != null ? [command] : [];
  });
}
