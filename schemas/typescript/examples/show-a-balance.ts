// Show a balance: one query, and 304 where nothing has moved since the browser asked last.

import { createServer } from "node:http";
import type { Server } from "node:http";

import { BillingUnavailable } from "@billing-worker/client";
import type { Billing } from "@billing-worker/client";

/** Server of `GET /balance`, with the user in `x-user`. */
export function balances(billing: Billing): Server {
  return createServer(async (request, response) => {
    try {
      const found = await billing.balance(String(request.headers["x-user"]), {}, { timeoutMs: 3_000 });
      if (found === null) {
        response.writeHead(404).end(); // no account: not the same as an empty one
        return;
      }
      const etag = `"${found.sequence}-${found.held}"`; // holds alone don't raise the sequence
      if (request.headers["if-none-match"] === etag) {
        response.writeHead(304, { etag }).end();
        return;
      }
      const { availableFormatted, available, nextCreditAt } = found;
      response.writeHead(200, { etag, "content-type": "application/json" });
      response.end(JSON.stringify({ available, availableFormatted, nextCreditAt }));
    } catch (error) {
      response.writeHead(error instanceof BillingUnavailable ? 503 : 500).end();
    }
  });
}
