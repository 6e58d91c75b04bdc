// React to notices: each is handled once in this process, and comes again where the handler fails.

import type { Billing, Subscription } from "@billing-worker/client";

export interface Mailer {
  send(userId: string, text: string, idempotencyKey: string): Promise<void>;
}

/** Write to users whose tokens end. All processes of the app share the queue. */
export function writeToUsers(billing: Billing, mailer: Mailer, queue: string): Promise<Subscription> {
  return billing.notices(
    async (notice) => {
      switch (notice.type) {
        case "balance.low":
          return mailer.send(notice.userId, `${notice.available} tokens are left.`, notice.id);
        case "balance.depleted":
          return mailer.send(notice.userId, "Your tokens are used up.", notice.id);
        case "credit.expiring":
          return mailer.send(notice.userId, `${notice.tokens} tokens end on ${notice.expiresAt}.`, notice.id);
      }
    },
    { queue, onError: (error) => console.error(error) },
  );
}
