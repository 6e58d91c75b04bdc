// Charge in a request: hold the most that the work may cost, do it, and capture what it did cost.

import { createServer } from "node:http";
import type { Server } from "node:http";

import type { Billing } from "@billing-worker/client";

const MOST_TOKENS = 5_000;

/** Server of `POST /summaries`, with the user in `x-user` and the request's own id in `idempotency-key`. */
export function summaries(
  billing: Billing,
  summarize: () => Promise<{ text: string; tokens: number }>,
): Server {
  return createServer(async (request, response) => {
    try {
      const userId = String(request.headers["x-user"]);
      const id = String(request.headers["idempotency-key"]); // the browser repeats it: nothing is charged twice
      const hold = { referenceId: `summary/${id}`, userId, tokens: MOST_TOKENS, ttlSeconds: 300 };
      const held = await billing.reserve(hold);
      if (held.status === "rejected") {
        response.writeHead(402).end(held.message);
        return;
      }
      const { text, tokens } = await summarize();
      const about = { userId, originalReferenceId: hold.referenceId, feature: "summary" };
      await billing.settle({ referenceId: `summary/${id}/done`, tokens, onExcess: "take", ...about });
      response.writeHead(200).end(text);
    } catch {
      response.writeHead(503).end(); // an unknown outcome too: the hold runs out by itself
    }
  });
}
