// A ledger in memory with the client's interface, for an app's own unit tests: no broker, no worker, no waiting.

import type { FakeAccount } from "./fake-account.js";
import { answerTo } from "./fake-answers.js";
import { CATALOG } from "./fake-catalog.js";
import { FakeLedger, VERSION } from "./fake-ledger.js";
import type { Catalog } from "./fake-ledger.js";
import { iso } from "./formats.js";
import { BillingUnavailable } from "./errors.js";
import type { Answer, Command, Notice, Query, Reply } from "./generated/contract.js";
import type { Handler, Subscription } from "./listening.js";
import { encode } from "./numbers.js";
import { resultOf } from "./outcomes.js";
import type { Result } from "./outcomes.js";
import { Billing } from "./vocabulary.js";
import type { NoticesOptions } from "./vocabulary.js";

/** Marks of the notices about balances, as the packaged catalog has them. */
const MARKS = [
  { type: "balance.low", at: 1_000, againFrom: 5_000 },
  { type: "balance.depleted", at: 0, againFrom: 1_000 },
] as const;

/** Client of a ledger in memory. Time stands still until `setTime` or `advance`.
 *
 * It knows the rules that an app meets every day: references, balances, holds, quotas, periods, packages,
 * refunds and expiry, what gateways send, and frozen accounts. It leaves out notices of expiring credit, what holds
 * keep of single lots, prices of another time, and what a catalog says of payments but the packaged one; a question that it can't answer as the worker does is an error. */
export class FakeBillingClient extends Billing {
  readonly #ledger: FakeLedger;
  readonly #replies = new Set<Handler<Reply>>();
  readonly #notices = new Set<{ handler: Handler<Notice>; types: readonly string[] | undefined }>();
  readonly #noticed = new Set<string>();
  #now: number;
  #failure: Error | undefined;
  #isClosed = false;

  constructor(options: { now?: Date; catalog?: Catalog } = {}) {
    super();
    this.#now = (options.now ?? new Date("2026-01-01T00:00:00Z")).getTime();
    this.#ledger = new FakeLedger(options.catalog ?? CATALOG, () => this.#now);
  }

  get now(): Date {
    return new Date(this.#now);
  }

  setTime(now: Date): void {
    this.#now = now.getTime();
  }

  advance(milliseconds: number): void {
    this.#now += milliseconds;
  }

  /** Let every call fail with `error`, such as a BillingTimeout, until it is called with none. */
  failWith(error?: Error): void {
    this.#failure = error;
  }

  override async request(command: Command): Promise<Result> {
    return resultOf(await this.#applied(command));
  }

  override async publish(command: Command): Promise<void> {
    const reply = await this.#applied(command);
    if (!isWanted(command, reply)) return;
    for (const handler of this.#replies) await handler(reply);
  }

  override async ask(query: Query): Promise<Answer> {
    this.#check();
    encode(query);
    return answerTo(query, this.#ledger);
  }

  override async replies(handler: Handler<Reply>): Promise<Subscription> {
    this.#replies.add(handler);
    return { close: async () => void this.#replies.delete(handler) };
  }

  override async notices(handler: Handler<Notice>, options: NoticesOptions): Promise<Subscription> {
    const listener = { handler, types: options.types };
    this.#notices.add(listener);
    return { close: async () => void this.#notices.delete(listener) };
  }

  override async close(): Promise<void> {
    this.#isClosed = true;
  }

  #check(): void {
    if (this.#isClosed) throw new BillingUnavailable("the client is closed");
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #applied(command: Command): Promise<Reply> {
    this.#check();
    encode(command); // the same numbers are refused
    const reply = this.#ledger.apply(command);
    for (const { userId, referenceId } of [reply, ...(reply.items ?? [])]) {
      const account = userId === undefined ? undefined : this.#ledger.accounts.get(userId);
      if (account !== undefined) await this.#notifyOfBalance(account, referenceId ?? "");
    }
    await this.#notifyOfRejection(command, reply);
    return reply;
  }

  async #notifyOfBalance(account: FakeAccount, referenceId: string): Promise<void> {
    const { userId, available } = account;
    for (const { type, at, againFrom } of MARKS) {
      const name = `${type} ${userId}`;
      if (available >= againFrom) this.#noticed.delete(name);
      if (available > at || this.#noticed.has(name)) continue;
      this.#noticed.add(name);
      const about = { userId, referenceId, recordedAt: iso(this.#now), available, mark: at };
      await this.#notify({ ...VERSION, type, id: `${name} ${referenceId}`, ...about });
    }
  }

  /** Tell of money without tokens: a rejected payment, also of a subscription, or a rejected event of one. */
  async #notifyOfRejection(command: Command, reply: Reply): Promise<void> {
    const payment = "payment" in command ? command.payment : undefined;
    if (payment == null && !command.type.startsWith("payment.")) return;
    if (reply.status !== "rejected" || reply.code === "reference_conflict") return;
    const { referenceId } = command;
    const { userId, code, attempt, recordedAt = "" } = reply; // a copy is told again, with the same id
    const about = { userId, referenceId, recordedAt, code, ...moneyIn((payment ?? command) as Money) };
    const type = "payment.rejected";
    await this.#notify({ ...VERSION, type, id: `${type} ${referenceId} ${attempt}`, ...about });
  }

  async #notify(notice: Notice): Promise<void> {
    for (const { handler, types } of this.#notices)
      if (types?.includes(notice.type) ?? true) await handler(notice);
  }
}

/** Money that a command or a payment may name. */
interface Money {
  readonly amountMinor?: number | null;
  readonly refundedTotalMinor?: number | null;
  readonly currency?: string;
}

function moneyIn({ amountMinor, refundedTotalMinor, currency }: Money) {
  return { amountMinor: amountMinor ?? refundedTotalMinor ?? undefined, currency };
}

/** Return whether the sender wants the reply: all of them, problems alone, or none. */
function isWanted({ replies }: Command, reply: Reply): boolean {
  const isProblem = reply.status !== "applied" || Boolean(reply.rejected) || Boolean(reply.failed);
  return replies === "problems" ? isProblem : replies !== "none";
}
