// The client: the vocabulary over RabbitMQ.

import type { Channel } from "amqplib";

import { brokerOf } from "./connection.js";
import type { Broker, Tls } from "./connection.js";
import { BillingRefused, BillingUnavailable } from "./errors.js";
import type { Answer, Command, Notice, Query, Reply } from "./generated/contract.js";
import { Listener } from "./listening.js";
import type { Handler, ListenOptions, Subscription } from "./listening.js";
import { decode, encode } from "./numbers.js";
import { requireCount, requireName, TIMEOUT_MAX_MS } from "./options.js";
import { resultOf } from "./outcomes.js";
import type { Result } from "./outcomes.js";
import { joined, partsOf, requirePartitions, routingKey } from "./partitions.js";
import type { Part } from "./partitions.js";
import type { Outgoing } from "./requests.js";
import { requireTraceparent } from "./trace.js";
import { Billing } from "./vocabulary.js";
import type { CommandOptions, NoticesOptions, RepliesOptions, RequestOptions } from "./vocabulary.js";
import { Wire } from "./wire.js";
import type { End } from "./wire.js";

const TIMEOUTS_MS: Record<End, number> = { reply: 10_000, confirm: 10_000, answer: 5_000 };
const CLOSE_TIMEOUT_MS = 10_000;
const PENDING_MAX = 1_000_000;

export interface ClientOptions {
  /** `amqp://user:password@a,b:5673/vhost`, or `amqps:`: nodes of one broker; `?heartbeat=` in seconds, default 15. */
  readonly url: string;
  /** Name of the program, which is kept with each operation; default `billing-client`. */
  readonly appId?: string;
  /** Most commands, and most queries, that are with the broker at a time; the others wait. Default 1,000. */
  readonly maxPending?: number;
  /** Longest wait for a reply or an answer, where a call names none, in milliseconds. */
  readonly timeoutMs?: number;
  /** Number of partitions of the broker's queues, as it was declared: 8, 16, 32 or 64; default 0, none. */
  readonly partitions?: number;
  /** Certificates for `amqps:`, in place of those that the URL names. */
  readonly tls?: Tls;
}

/** Client of the ledger. It connects with its first message, and again whenever a connection is lost. */
export class BillingClient extends Billing {
  readonly #broker: Broker;
  readonly #appId: string;
  readonly #timeoutMs: number | undefined;
  readonly #partitions: number;
  readonly #wire: Wire;
  readonly #subscriptions = new Set<Subscription>();
  #isClosed = false;

  constructor(options: ClientOptions) {
    super();
    const { url, tls, appId = "billing-client", maxPending = 1_000, timeoutMs, partitions = 0 } = options;
    this.#partitions = requirePartitions(partitions);
    this.#broker = brokerOf(url, tls);
    this.#appId = requireName("appId", appId);
    this.#timeoutMs =
      timeoutMs === undefined ? timeoutMs : requireCount("timeoutMs", timeoutMs, TIMEOUT_MAX_MS);
    this.#wire = new Wire(this.#broker, appId, requireCount("maxPending", maxPending, PENDING_MAX));
  }

  override async request(command: Command, options: CommandOptions = {}): Promise<Result> {
    if ((command.replies ?? "all") !== "all") {
      throw new BillingRefused("replies: request waits for the reply; use publish", "replies");
    }
    const parts = partsOf(command, this.#partitions);
    const bodies = await this.#sendParts("reply", command, parts, options);
    return resultOf(joined(command, parts, bodies.map(decode<Reply>)));
  }

  override async publish(command: Command, options: CommandOptions = {}): Promise<void> {
    await this.#sendParts("confirm", command, partsOf(command, this.#partitions), options);
  }

  override async ask(query: Query, options: RequestOptions = {}): Promise<Answer> {
    const { type } = query;
    const message = { exchange: "billing", type, routingKey: type, body: encode(query) };
    return decode(await this.#send("answer", message, options));
  }

  override replies(handler: Handler<Reply>, options: RepliesOptions = {}): Promise<Subscription> {
    return this.#listen("replies", async () => options.queue ?? "billing.replies", handler, options);
  }

  override notices(handler: Handler<Notice>, options: NoticesOptions): Promise<Subscription> {
    const { queue, types = ["#"] } = options;
    const prepare = async (channel: Channel): Promise<string> => {
      await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
      for (const type of types) await channel.bindQueue(queue, "billing.events", type);
      return queue;
    };
    return this.#listen("notices", prepare, handler, options);
  }

  override async close({ timeoutMs = CLOSE_TIMEOUT_MS }: RequestOptions = {}): Promise<void> {
    requireCount("timeoutMs", timeoutMs, TIMEOUT_MAX_MS, 0);
    if (this.#isClosed) return;
    this.#isClosed = true;
    const subscriptions = [...this.#subscriptions].map((subscription) => subscription.close({ timeoutMs }));
    await Promise.all([...subscriptions, this.#wire.close(timeoutMs)]);
  }

  /** Send the parts of a command, once all of them can be written; errors name the reference of the whole. */
  async #sendParts(end: End, whole: Command, parts: readonly Part[], options: CommandOptions) {
    if (parts.length > 1) encode(whole); // refuses a number by its place in the whole
    const { referenceId } = whole;
    const messages = parts.map(({ command }) => ({ ...this.#outgoing(command, options), referenceId }));
    return Promise.all(messages.map((message) => this.#send(end, message, options)));
  }

  #outgoing(command: Command, { lane }: CommandOptions): Outgoing {
    const { type } = command;
    if (lane === "bulk" && !type.startsWith("usage.")) {
      throw new BillingRefused(`the bulk lane takes usage alone, not ${type}`, "lane", "wrong_lane");
    }
    const exchange = lane === "bulk" ? "billing.bulk" : "billing";
    return { exchange, type, routingKey: routingKey(command, this.#partitions), body: encode(command) };
  }

  #send(end: End, message: Outgoing, { timeoutMs, traceparent }: RequestOptions): Promise<Buffer> {
    this.#refuseClosed();
    requireTraceparent(traceparent);
    const longest = timeoutMs ?? this.#timeoutMs ?? TIMEOUTS_MS[end];
    return this.#wire.send(
      end,
      { ...message, traceparent },
      requireCount("timeoutMs", longest, TIMEOUT_MAX_MS),
    );
  }

  async #listen<T>(
    what: string,
    prepare: (channel: Channel) => Promise<string>,
    handler: Handler<T>,
    options: ListenOptions,
  ): Promise<Subscription> {
    this.#refuseClosed();
    const listener = new Listener(`${this.#appId} ${what}`, this.#broker, prepare, handler, options);
    this.#subscriptions.add(listener);
    const close: Subscription["close"] = async (options) => {
      await listener.close(options);
      this.#subscriptions.delete(listener);
    };
    await listener.start().catch(async (refusal) => {
      await close();
      throw refusal;
    });
    return { close };
  }

  #refuseClosed(): void {
    if (this.#isClosed) throw new BillingUnavailable("the client is closed");
  }
}
