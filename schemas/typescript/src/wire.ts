// The two connections that commands and queries go by, and that their replies come back on.

import { randomUUID } from "node:crypto";

import type { ConfirmChannel, Message, Options } from "amqplib";

import { Link, refusalIn } from "./connection.js";
import type { Broker } from "./connection.js";
import { BillingConfiguration, BillingUnavailable } from "./errors.js";
import { AGAIN, Requests } from "./requests.js";
import type { Outgoing, Request } from "./requests.js";

/** What ends a message: the worker's reply, the broker's confirm, or a reader's answer. */
export type End = "reply" | "confirm" | "answer";

const DIRECT_REPLY_TO = "amq.rabbitmq.reply-to";
const NOTHING = Buffer.alloc(0);
/** Shortest time with one channel, where it refuses. */
const RENEW_AFTER_MS = 1_000;

/** Sender of commands and queries, on a connection of its own; replies come by another one. */
export class Wire {
  readonly #requests: Record<End, Requests>;
  readonly #all: readonly Requests[];
  readonly #publisher: Link;
  readonly #consumer: Link;
  #channel: ConfirmChannel | undefined;
  #openedAt = 0;
  /** Routes by which the channel has had a confirm. */
  readonly #taken = new Set<string>();
  #replyQueue: string | undefined;

  constructor(
    private readonly broker: Broker,
    private readonly appId: string,
    places: number,
  ) {
    const requests = (end: End) => new Requests(places, (request) => this.#write(request, end));
    this.#requests = { reply: requests("reply"), confirm: requests("confirm"), answer: requests("answer") };
    this.#all = Object.values(this.#requests);
    this.#publisher = new Link(`${appId} publisher`, broker, {
      open: (channel) => this.#openPublisher(channel),
      lost: () => {
        this.#channel = undefined;
        this.#requests.answer.lost(); // answers come by this channel
      },
      refused: (refusal) => this.#all.forEach((one) => one.refuse(refusal)),
    });
    this.#consumer = new Link(`${appId} replies`, broker, {
      open: (channel) => this.#openConsumer(channel),
      lost: () => {
        this.#replyQueue = undefined;
        this.#requests.reply.lost(); // replies to the queue are gone with it
      },
      refused: (refusal) => this.#requests.reply.refuse(refusal),
    });
  }

  /** Send a message and return the body of what ends it; it connects where that is needed. */
  send(end: End, message: Outgoing, timeoutMs: number): Promise<Buffer> {
    void this.#publisher.start();
    if (end === "reply") void this.#consumer.start();
    return this.#requests[end].send(message, timeoutMs);
  }

  /** Wait for what is pending, at most `timeoutMs`, then close the connections. */
  async close(timeoutMs: number): Promise<void> {
    await Promise.all(this.#all.map((one) => one.drained(timeoutMs)));
    await Promise.all([this.#publisher.close(), this.#consumer.close()]);
  }

  async #openPublisher(channel: ConfirmChannel): Promise<void> {
    channel.on("return", ({ fields: { exchange, routingKey }, properties }: Message) => {
      const text = `no queue takes ${routingKey} from the exchange '${exchange}'`; // comes before its confirm
      const error = new BillingConfiguration(`${text}: run \`billing-worker topology declare\``);
      for (const one of this.#all) one.end(properties.correlationId, error);
    });
    channel.on("error", (error: Error) => {
      const refusal = refusalIn(error);
      if (refusal !== undefined) this.#all.forEach((one) => one.refuseWritten(refusal));
    });
    await this.#consume(channel, DIRECT_REPLY_TO, this.#requests.answer);
    this.#channel = channel;
    this.#openedAt = performance.now();
    this.#taken.clear();
    for (const one of this.#all) one.opened();
  }

  async #openConsumer(channel: ConfirmChannel): Promise<void> {
    // A new name each time: the queue of a connection that died unnoticed is still locked.
    const queue = `billing.replies.${this.broker.user}.${randomUUID()}`;
    await channel.assertQueue(queue, { exclusive: true, autoDelete: true, durable: false });
    await this.#consume(channel, queue, this.#requests.reply);
    this.#replyQueue = queue;
    this.#requests.reply.opened();
  }

  async #consume(channel: ConfirmChannel, queue: string, requests: Requests): Promise<void> {
    const take = (reply: Message | null): void => {
      if (reply !== null) requests.end(reply.properties.correlationId, reply.content);
    };
    await channel.consume(queue, take, { noAck: true });
  }

  /** Give a message to the broker; return false where it has no way there, or none back. */
  #write(request: Request, end: End): boolean {
    const { exchange, routingKey, body, type, referenceId = "" } = request;
    const properties = this.#propertiesOf(request, end);
    if (this.#channel === undefined || properties === undefined) return false;
    const route = `${exchange} ${routingKey}`;
    const confirmed = (error: Error | null): void => {
      if (error === null) {
        this.#taken.add(route);
        request.isConfirmed = true;
        request.isDue = end === "reply" && properties.replyTo !== this.#replyQueue; // lost before the confirm
        if (end === "confirm") request.end(NOTHING);
      } else if (error.message === "message nacked") {
        if (!this.#taken.has(route)) this.#renew();
        const text = `${type} ${referenceId}: the broker refuses it, its queue is full or in trouble; ${AGAIN}`;
        if (request.writes === 1) request.end(new BillingUnavailable(text));
      } // else the channel is lost: what it has not confirmed is written again
    };
    try {
      this.#channel.publish(exchange, routingKey, body, properties, confirmed);
      return true;
    } catch {
      return false; // the channel is about to close
    }
  }

  /** Take another channel, with its connection: where a queue's leader has just died, RabbitMQ before 3.11 refuses
   * on a new channel until that node is back. */
  #renew(): void {
    if (performance.now() - this.#openedAt < RENEW_AFTER_MS) return;
    void this.#channel?.close().catch(() => {});
    this.#channel = undefined;
  }

  /** Return the properties of a message; none where the reply has no queue to come to. */
  #propertiesOf({ id, type, timeoutMs, traceparent }: Request, end: End): Options.Publish | undefined {
    const now = Date.now(); // workers observe how old a message is; AMQP's own stamp counts whole seconds
    const common = {
      type,
      contentType: "application/json",
      correlationId: id,
      messageId: id, // the same when it is sent again
      appId: this.appId,
      userId: this.broker.user,
      mandatory: true,
      persistent: end !== "answer",
      timestamp: Math.floor(now / 1000),
      headers: { timestamp_in_ms: now, traceparent },
    };
    if (end === "confirm") return common;
    if (end === "reply") return this.#replyQueue ? { ...common, replyTo: this.#replyQueue } : undefined;
    return { ...common, replyTo: DIRECT_REPLY_TO, expiration: timeoutMs }; // nobody waits for it after that
  }
}
