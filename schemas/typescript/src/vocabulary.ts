// Everything that one can do with the ledger, whoever carries it: the broker's client or the fake.

import { BillingUnavailable } from "./errors.js";
import type * as contract from "./generated/contract.js";
import type { Handler, ListenOptions, Subscription } from "./listening.js";
import { answered } from "./outcomes.js";
import type { Result } from "./outcomes.js";

export interface RequestOptions {
  /** Longest wait, in milliseconds; default 10,000 for commands and 5,000 for queries. */
  readonly timeoutMs?: number;
  /** Trace context (W3C): it goes on into the reply, the notices, a dead letter and the worker's log. */
  readonly traceparent?: string;
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

/** A command or a query as the methods below take it. */
export type Fields<T extends { type: string }> = Omit<T, "type">;
type OfUser<T extends { type: string; userId: string }> = Omit<T, "type" | "userId">;

/** An amount of tokens, or of a meter's units. */
export type Usage = number | { readonly meter: string; readonly quantity: number };

/** Method of each command: it sends the command and returns its result. */
const COMMANDS = {
  openAccount: "account.open",
  /** Bring an account of another system with all that it had. */
  importAccount: "account.import",
  /** Stop usage and holds, of a user or of the user of a payment, as after a fraud warning. */
  freezeAccount: "account.freeze",
  unfreezeAccount: "account.unfreeze",
  changeSubscription: "subscription.change",
  renewSubscription: "subscription.renew",
  cancelSubscription: "subscription.cancel",
  /** Take tokens at once. */
  deduct: "usage.deduct",
  /** Meter usage: free units first, then tokens by the catalog's price. */
  record: "usage.record",
  freeUpload: "usage.free_upload",
  /** Send up to 1,000 usage commands at once. The result is applied; look at each of its `items`. */
  batch: "usage.batch",
  /** Hold tokens for work whose price is not known yet. */
  reserve: "usage.reserve",
  /** Renew a hold while its work goes on. */
  extend: "usage.extend",
  /** Capture what was used of a hold, and release the rest. */
  settle: "usage.settle",
  /** Give a hold up. */
  release: "usage.release",
  paymentSucceeded: "payment.succeeded",
  /** Give a payment more names, also before it comes. */
  paymentNamed: "payment.named",
  paymentRefunded: "payment.refunded",
  /** Take a refund back that failed or was canceled after it had succeeded. */
  refundFailed: "payment.refund_failed",
  paymentDisputed: "payment.disputed",
  disputeClosed: "payment.dispute_closed",
  paymentFailed: "payment.failed",
  /** Give tokens of a usage back. */
  refund: "credit.refund",
  bonus: "credit.bonus",
  /** Correct a balance by hand: negative tokens take. */
  adjust: "credit.adjust",
} as const;

type Named = (typeof COMMANDS)[keyof typeof COMMANDS];
/** Commands without a method: the scheduler's own. A new command in the contract fails here. */
const UNNAMED: Record<Exclude<contract.Command["type"], Named>, true> = { "account.settle": true };
void UNNAMED;

type CommandOf<T> = Extract<contract.Command, { type: T }>;
type Commands = {
  [Name in keyof typeof COMMANDS]: (
    fields: Fields<CommandOf<(typeof COMMANDS)[Name]>>,
    options?: CommandOptions,
  ) => Promise<Result>;
};

export interface Billing extends Commands {}

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

  balance(userId: string, fields: OfUser<contract.QueryBalance> = {}, options?: RequestOptions) {
    return this.#ofUser<contract.BalanceAnswer>({ type: "query.balance", userId, ...fields }, options);
  }

  history(userId: string, fields: OfUser<contract.QueryHistory> = {}, options?: RequestOptions) {
    return this.#ofUser<contract.HistoryAnswer>({ type: "query.history", userId, ...fields }, options);
  }

  usage(userId: string, fields: OfUser<contract.QueryUsage> = {}, options?: RequestOptions) {
    return this.#ofUser<contract.UsageAnswer>({ type: "query.usage", userId, ...fields }, options);
  }

  /** Price a usage and say whether it would be applied now. */
  quote(userId: string, usage: Usage, options?: RequestOptions) {
    const fields = typeof usage === "number" ? { tokens: usage } : usage;
    return this.#ofUser<contract.AffordAnswer>({ type: "query.afford", userId, ...fields }, options);
  }

  /** Say whether a usage would be applied now; false for an unknown account. */
  async canAfford(userId: string, usage: Usage, options: AffordOptions = {}): Promise<boolean> {
    try {
      return (await this.quote(userId, usage, options))?.affordable ?? false;
    } catch (error) {
      const { onUnavailable = "throw" } = options;
      if (onUnavailable === "throw" || !(error instanceof BillingUnavailable)) throw error;
      return onUnavailable === "allow";
    }
  }

  /** Return the stored outcome of a reference: the question after a BillingTimeout. */
  operation(referenceId: string, options?: RequestOptions) {
    return this.#answer<contract.OperationAnswer>({ type: "query.operation", referenceId }, options);
  }

  stats(options?: RequestOptions) {
    return this.#answer<contract.StatsAnswer>({ type: "query.stats" }, options);
  }

  catalog(options?: RequestOptions) {
    return this.#answer<contract.CatalogAnswer>({ type: "query.catalog" }, options);
  }

  async #ofUser<A>(query: contract.Query, options?: RequestOptions): Promise<A | null> {
    const answer = await this.ask(query, options);
    if (answer.type === "answer.problem" && answer.code === "account_not_found") return null;
    return answered(answer) as A;
  }

  async #answer<A>(query: contract.Query, options?: RequestOptions): Promise<A> {
    return answered(await this.ask(query, options)) as A;
  }
}

for (const [name, type] of Object.entries(COMMANDS)) {
  const value = function (this: Billing, fields: object, options?: CommandOptions): Promise<Result> {
    return this.request({ type, ...fields } as contract.Command, options);
  };
  Object.defineProperty(Billing.prototype, name, { value, writable: true, configurable: true });
}
