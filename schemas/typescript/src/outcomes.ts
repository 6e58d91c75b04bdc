// What comes of a command or a query: a value where the ledger has judged, an error where somebody must act.

import { BillingConfiguration, BillingFailed, BillingRefused, BillingUnavailable } from "./errors.js";
import type { Answer, Reply } from "./generated/contract.js";

/** Result of a command, a value either way. A rejected one moved nothing; `code` says why. */
export type Result = Applied | Rejected;
export type Applied = Reply & { status: "applied" };
export type Rejected = Reply & { status: "rejected" };

/** Return an answer; throw the error of a problem. */
export function answered(answer: Answer): Answer {
  if (answer.type !== "answer.problem") return answer;
  const text = `${answer.query ?? "query"}: ${answer.message}`;
  switch (answer.code) {
    case "malformed":
    case "account_not_found":
      throw new BillingRefused(text, answer.field, answer.code);
    case "not_allowed":
      throw new BillingConfiguration(text);
    default: // a fault of the reader's passes, or its operators have it; nothing was changed
      throw new BillingUnavailable(text);
  }
}

/** Return the result of a reply; throw the error of a failed one. */
export function resultOf(reply: Reply): Result {
  if (reply.status !== "failed") return reply as Result;
  if (reply.code !== "malformed") throw new BillingFailed(reply);
  if (reply.reason === "wrong_sender") throw new BillingConfiguration(reply.message);
  throw new BillingRefused(reply.message, reply.field, reply.reason);
}
