// Everything that one can do with the ledger, whoever carries it: the broker's client or the fake.

import { BillingConfiguration, BillingFailed, BillingRefused, BillingUnavailable } from "./errors.js";
import type * as contract from "./generated/contract.js";
import type { Handler, ListenOptions, Subscription } from "./listening.js";

/** Result of a command, a value either way. A rejected one moved nothing; `code` says why. */
export type Result = Applied | Rejected;
export type Applied = contract.Reply & { status: "applied" };
export type Rejected = contract.Reply & { status: "rejected" };

export interface RequestOptions {
  /** Longest wait, in milliseconds; default 10,000 for commands and 5,000 for queries. */
  readonly timeoutMs?: number;
}

export interface CommandOptions extends RequestOptions {
  /** `bulk` goes by the lane that is served last; it takes usage alone. */
  readonly lane?: "interactive" | "bulk";
}

export interface AffordOptions extends RequestOptions {
  /** Result without an answer: by default `throw`. `allow` and `deny` return true and false. */
  readonly onUnavailable?: "throw" | "allow" | "deny";
}

export interface RepliesOptions extends ListenOptions {
  /** Default `billing.replies`. */
  readonly queue?: string;
}

export interface NoticesOptions extends ListenOptions {
  /** The app's own queue, which is declared: durable, and shared by all processes that name it. */
  readonly queue: string;
  /** Types of notices; default all. */
  readonly types?: readonly contract.Notice["type"][];
}

/** A command or a query without its type, as the methods below take it. */
export type Fields<T extends { type: string }> = Omit<T, "type">;
type AccountFields<T extends { type: string; userId: string }> = Omit<T, "type" | "userId">;

/** An amount of tokens, or of a meter's units. */
export type Usage = number | { readonly meter: string; readonly quantity: number };

/** What an app does with the ledger. Queries about an account return null where the user has none. */
export abstract class Billing {
  /** Send a command and return its result. */
  abstract request(command: contract.Command, options?: CommandOptions): Promise<Result>;
  /** Send a command and return once the broker has it; the reply goes to `billing.replies`. */
  abstract publish(command: contract.Command, options?: CommandOptions): Promise<void>;
  /** Send a query and return its answer. */
  abstract ask(query: contract.Query, options?: RequestOptions): Promise<contract.Answer>;
  /** Handle the replies to commands that were published. */
  abstract replies(handler: Handler<contract.Reply>, options?: RepliesOptions): Promise<Subscription>;
  /** Handle the ledger's notices, such as `balance.low`. */
  abstract notices(handler: Handler<contract.Notice>, options: NoticesOptions): Promise<Subscription>;
  /** Wait for what is pending, then disconnect. */
  abstract close(options?: RequestOptions): Promise<void>;

  // -- accounts and subscriptions --------------------------------------------------------------------------

  openAccount(fields: Fields<contract.OpenAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.open", ...fields }, options);
  }

  /** Bring an account of another system with all that it had. */
  importAccount(fields: Fields<contract.ImportAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.import", ...fields }, options);
  }

  changeSubscription(fields: Fields<contract.ChangeSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.change", ...fields }, options);
  }

  renewSubscription(fields: Fields<contract.RenewSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.renew", ...fields }, options);
  }

  cancelSubscription(fields: Fields<contract.CancelSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.cancel", ...fields }, options);
  }

  // -- usage -----------------------------------------------------------------------------------------------

  /** Take tokens at once. */
  deduct(fields: Fields<contract.DeductUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.deduct", ...fields }, options);
  }

  /** Meter usage: free units first, then tokens by the catalog's price. */
  record(fields: Fields<contract.RecordUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.record", ...fields }, options);
  }

  freeUpload(fields: Fields<contract.FreeUpload>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.free_upload", ...fields }, options);
  }

  /** Send up to 1,000 usage commands at once. The result is applied; look at each of its `items`. */
  batch(fields: Fields<contract.UsageBatch>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.batch", ...fields }, options);
  }

  /** Hold tokens for work whose price is not known yet. */
  reserve(fields: Fields<contract.ReserveUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.reserve", ...fields }, options);
  }

  /** Renew a hold while its work goes on. */
  extend(fields: Fields<contract.ExtendUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.extend", ...fields }, options);
  }

  /** Capture what was used of a hold, and release the rest. */
  settle(fields: Fields<contract.SettleUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.settle", ...fields }, options);
  }

  /** Give a hold up. */
  release(fields: Fields<contract.ReleaseUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.release", ...fields }, options);
  }

  // -- payments and credit ---------------------------------------------------------------------------------

  paymentSucceeded(fields: Fields<contract.PaymentSucceeded>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.succeeded", ...fields }, options);
  }

  paymentRefunded(fields: Fields<contract.PaymentRefunded>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.refunded", ...fields }, options);
  }

  paymentDisputed(fields: Fields<contract.PaymentDisputed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.disputed", ...fields }, options);
  }

  disputeClosed(fields: Fields<contract.DisputeClosed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.dispute_closed", ...fields }, options);
  }

  paymentFailed(fields: Fields<contract.PaymentFailed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.failed", ...fields }, options);
  }

  /** Give tokens of a usage back. */
  refund(fields: Fields<contract.RefundCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.refund", ...fields }, options);
  }

  bonus(fields: Fields<contract.BonusCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.bonus", ...fields }, options);
  }

  /** Correct a balance by hand: negative tokens take. */
  adjust(fields: Fields<contract.AdjustCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.adjust", ...fields }, options);
  }

  // -- queries ---------------------------------------------------------------------------------------------

  balance(
    userId: string,
    fields: AccountFields<contract.QueryBalance> = {},
    options?: RequestOptions,
  ): Promise<contract.BalanceAnswer | null> {
    return this.#ofAccount<contract.BalanceAnswer>({ type: "query.balance", userId, ...fields }, options);
  }

  /** Price a usage and say whether it would be applied now. */
  quote(userId: string, usage: Usage, options?: RequestOptions): Promise<contract.AffordAnswer | null> {
    const fields = typeof usage === "number" ? { tokens: usage } : usage;
    return this.#ofAccount<contract.AffordAnswer>({ type: "query.afford", userId, ...fields }, options);
  }

  /** Say whether a usage would be applied now; false for an unknown account. */
  async canAfford(userId: string, usage: Usage, options: AffordOptions = {}): Promise<boolean> {
    try {
      return (await this.quote(userId, usage, options))?.affordable ?? false;
    } catch (error) {
      const otherwise = options.onUnavailable ?? "throw";
      if (otherwise === "throw" || !(error instanceof BillingUnavailable)) throw error;
      return otherwise === "allow";
    }
  }

  history(
    userId: string,
    fields: AccountFields<contract.QueryHistory> = {},
    options?: RequestOptions,
  ): Promise<contract.HistoryAnswer | null> {
    return this.#ofAccount<contract.HistoryAnswer>({ type: "query.history", userId, ...fields }, options);
  }

  usage(
    userId: string,
    fields: AccountFields<contract.QueryUsage> = {},
    options?: RequestOptions,
  ): Promise<contract.UsageAnswer | null> {
    return this.#ofAccount<contract.UsageAnswer>({ type: "query.usage", userId, ...fields }, options);
  }

  /** Return the stored outcome of a reference: the question after a BillingTimeout. */
  operation(referenceId: string, options?: RequestOptions): Promise<contract.OperationAnswer> {
    return this.#answer<contract.OperationAnswer>({ type: "query.operation", referenceId }, options);
  }

  stats(options?: RequestOptions): Promise<contract.StatsAnswer> {
    return this.#answer<contract.StatsAnswer>({ type: "query.stats" }, options);
  }

  catalog(options?: RequestOptions): Promise<contract.CatalogAnswer> {
    return this.#answer<contract.CatalogAnswer>({ type: "query.catalog" }, options);
  }

  async #ofAccount<A extends contract.Answer>(
    query: contract.Query,
    options?: RequestOptions,
  ): Promise<A | null> {
    const answer = await this.ask(query, options);
    if (answer.type === "answer.problem" && answer.code === "account_not_found") return null;
    return answered(answer) as A;
  }

  async #answer<A extends contract.Answer>(query: contract.Query, options?: RequestOptions): Promise<A> {
    return answered(await this.ask(query, options)) as A;
  }
}

/** Return an answer; throw the error of a problem. */
function answered(answer: contract.Answer): contract.Answer {
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
export function resultOf(reply: contract.Reply): Result {
  if (reply.status !== "failed") return reply as Result;
  if (reply.code !== "malformed") throw new BillingFailed(reply.message, reply);
  if (reply.reason === "wrong_sender") throw new BillingConfiguration(reply.message);
  throw new BillingRefused(reply.message, reply.field, reply.reason);
}
