// Everything that one can do with the ledger, whoever carries it: the broker's client or the fake. The methods of
// commands are generated.

import { BillingUnavailable } from "./errors.js";
import type * as contract from "./generated/contract.js";
import { Methods } from "./generated/methods.js";
import type { Handler, ListenOptions, Subscription } from "./listening.js";
import { answered } from "./outcomes.js";

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

/** A command or a query as its method takes it. */
export type Fields<T extends { type: string }> = Omit<T, "type">;
type OfUser<T extends { type: string; userId: string }> = Omit<T, "type" | "userId">;

/** An amount of tokens, or of a meter's units. */
export type Usage = number | { readonly meter: string; readonly quantity: number };

/** What an app does with the ledger. Queries about an account return null where the user has none. */
export abstract class Billing extends Methods {
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
