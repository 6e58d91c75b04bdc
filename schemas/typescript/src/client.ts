// The client: the vocabulary over RabbitMQ.

import type { Channel } from "amqplib";

import { addressOf } from "./connection.js";
import type { Address } from "./connection.js";
import { BillingRefused, BillingUnavailable } from "./errors.js";
import type { Answer, Command, Notice, Query, Reply } from "./generated/contract.js";
import { Listener } from "./listening.js";
import type { Handler, ListenOptions, Subscription } from "./listening.js";
import { decode, encode } from "./numbers.js";
import type { Outgoing } from "./requests.js";
import { Billing, resultOf } from "./vocabulary.js";
import type { CommandOptions, NoticesOptions, RepliesOptions, RequestOptions, Result } from "./vocabulary.js";
import { Wire } from "./wire.js";

const COMMAND_TIMEOUT_MS = 10_000;
const QUERY_TIMEOUT_MS = 5_000;
const PLACES = 1_000;

export interface ClientOptions {
  /** `amqp://user:password@host:5672/vhost`, or `amqps:`; `?heartbeat=` in seconds, default 15. */
  readonly url: string;
  /** Name of the program, which is kept with each operation; default `billing-client`. */
  readonly appId?: string;
  /** Most commands, and most queries, that are with the broker at a time; the others wait. Default 1,000. */
  readonly maxPending?: number;
  /** Longest wait for a reply or an answer, where a call names none, in milliseconds. */
  readonly timeoutMs?: number;
  /** Options of the socket, such as `ca` or `servername`. */
  readonly socket?: object;
}

/** Client of the ledger. It connects with its first message, and again whenever a connection is lost. */
export class BillingClient extends Billing {
  readonly #address: Address;
  readonly #appId: string;
  readonly #timeoutMs: number | undefined;
  readonly #wire: Wire;
  readonly #subscriptions = new Set<Subscription>();
  #isClosed = false;

  constructor({ url, socket, appId = "billing-client", maxPending = PLACES, timeoutMs }: ClientOptions) {
    super();
    this.#address = addressOf(url, socket);
    this.#appId = appId;
    this.#timeoutMs = timeoutMs;
    this.#wire = new Wire(this.#address, appId, maxPending);
  }

  /** Throws BillingTimeout, BillingUnavailable, BillingRefused, BillingFailed and BillingConfiguration. */
  override async request(command: Command, options: CommandOptions = {}): Promise<Result> {
    if ((command.replies ?? "all") !== "all") {
      throw new BillingRefused("replies: request waits for the reply; use publish", "replies");
    }
    const wire = this.#started({ consumes: true });
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs ?? COMMAND_TIMEOUT_MS;
    return resultOf(decode<Reply>(await wire.asked.send(outgoing(command, options), timeoutMs)));
  }

  /** Throws BillingTimeout, BillingUnavailable and BillingConfiguration; the reply tells the rest. */
  override async publish(command: Command, options: CommandOptions = {}): Promise<void> {
    const wire = this.#started({ consumes: false });
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs ?? COMMAND_TIMEOUT_MS;
    await wire.published.send(outgoing(command, options), timeoutMs);
  }

  override async ask(query: Query, options: RequestOptions = {}): Promise<Answer> {
    const wire = this.#started({ consumes: false });
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs ?? QUERY_TIMEOUT_MS;
    const message = { exchange: "billing", type: query.type, body: encode(query) };
    return decode<Answer>(await wire.queries.send(message, timeoutMs));
  }

  override replies(handler: Handler<Reply>, options: RepliesOptions = {}): Promise<Subscription> {
    const { queue = "billing.replies" } = options;
    return this.#listen("replies", async () => queue, handler, options);
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

  override async close({ timeoutMs = COMMAND_TIMEOUT_MS }: RequestOptions = {}): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const subscriptions = [...this.#subscriptions].map((subscription) => subscription.close({ timeoutMs }));
    await Promise.all([...subscriptions, this.#wire.close(timeoutMs)]);
  }

  async #listen<T>(
    what: string,
    prepare: (channel: Channel) => Promise<string>,
    handler: Handler<T>,
    options: ListenOptions,
  ): Promise<Subscription> {
    this.#refuseClosed();
    const listener = new Listener(`${this.#appId} ${what}`, this.#address, prepare, handler, options);
    this.#subscriptions.add(listener);
    try {
      return await listener.start();
    } catch (error) {
      this.#subscriptions.delete(listener);
      throw error;
    }
  }

  #started(needs: { consumes: boolean }): Wire {
    this.#refuseClosed();
    this.#wire.start(needs);
    return this.#wire;
  }

  #refuseClosed(): void {
    if (this.#isClosed) throw new BillingUnavailable("the client is closed");
  }
}

function outgoing(command: Command, { lane }: CommandOptions): Outgoing {
  if (lane === "bulk" && !command.type.startsWith("usage.")) {
    throw new BillingRefused(`the bulk lane takes usage alone, not ${command.type}`, "lane", "wrong_lane");
  }
  const exchange = lane === "bulk" ? "billing.bulk" : "billing";
  return { exchange, type: command.type, body: encode(command), referenceId: command.referenceId };
}
