// A ledger in memory with the client's interface, for an app's own unit tests: no broker, no worker, no waiting.

import { BillingUnavailable } from "../errors.js";
import { iso } from "../formats.js";
import type { Answer, Command, Notice, Query, Reply } from "../generated/contract.js";
import type { Handler, MessageContext, Subscription } from "../listening.js";
import { encode } from "../numbers.js";
import { resultOf } from "../outcomes.js";
import type { Result } from "../outcomes.js";
import { requireTraceparent } from "../trace.js";
import { Billing } from "../vocabulary.js";
import type { NoticesOptions, RequestOptions } from "../vocabulary.js";
import { answerTo } from "./answers.js";
import { complete } from "./catalog.js";
import type { Catalog } from "./catalog.js";
import { FakeLedger, VERSION } from "./ledger.js";
import type { News } from "./notices.js";
import { apply } from "./references.js";

/** Client of a ledger in memory, with the worker's rules. Time stands still until `setTime` or `advance`.
 *
 * `catalog` is what is for sale, on the packaged catalog's terms where it names no others. What the fake can't
 * answer as the worker does is an error: a balance of another time. */
export class FakeBillingClient extends Billing {
  readonly #ledger: FakeLedger;
  readonly #replies = new Set<Handler<Reply>>();
  readonly #notices = new Set<{ handler: Handler<Notice>; types: readonly string[] | undefined }>();
  #now: number;
  #failure: Error | undefined;
  #isClosed = false;

  constructor(options: { now?: Date; catalog?: Catalog } = {}) {
    super();
    this.#now = (options.now ?? new Date("2026-01-01T00:00:00Z")).getTime();
    this.#ledger = new FakeLedger(complete(options.catalog ?? {}), () => this.#now);
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

  override async request(command: Command, options: RequestOptions = {}): Promise<Result> {
    return resultOf(await this.#applied(command, options));
  }

  override async publish(command: Command, options: RequestOptions = {}): Promise<void> {
    const reply = await this.#applied(command, options);
    if (!isWanted(command, reply)) return;
    for (const handler of this.#replies) await handler(reply, contextOf(options));
  }

  override async ask(query: Query, { traceparent }: RequestOptions = {}): Promise<Answer> {
    this.#check();
    requireTraceparent(traceparent);
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

  async #applied(command: Command, options: RequestOptions): Promise<Reply> {
    this.#check();
    requireTraceparent(options.traceparent);
    encode(command); // the same numbers are refused
    const { reply, notices } = apply(command, this.#ledger);
    for (const [place, news] of notices.entries()) await this.#notify(news, place, reply, contextOf(options));
    return reply;
  }

  /** Send a notice; the same one comes again with a copy of its command. */
  async #notify(news: News, place: number, reply: Reply, context: MessageContext): Promise<void> {
    const { userId, referenceId = "", attempt = 1, recordedAt = iso(this.#now) } = reply;
    const id = `${referenceId} ${attempt} ${place}`;
    const notice = { ...VERSION, id, userId, referenceId, recordedAt, ...news } as Notice;
    for (const { handler, types } of this.#notices)
      if (types?.includes(notice.type) ?? true) await handler(notice, context);
  }
}

function contextOf({ traceparent }: RequestOptions): MessageContext {
  return { traceparent };
}

/** Return whether the sender wants the reply: all of them, problems alone, or none. */
function isWanted({ replies }: Command, reply: Reply): boolean {
  const isProblem = reply.status !== "applied" || Boolean(reply.rejected) || Boolean(reply.failed);
  return replies === "problems" ? isProblem : replies !== "none";
}
