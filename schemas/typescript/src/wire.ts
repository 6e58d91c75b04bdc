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

/** Sender of commands and queries, on a connection of its own; replies come by another one. */
export class Wire {
  readonly #requests: Record<End, Requests>;
  readonly #publisher: Link;
  readonly #consumer: Link;
  #channel: ConfirmChannel | undefined;
  #replyQueue: string | undefined;

  constructor(
    private readonly broker: Broker,
    private readonly appId: string,
    places: number,
  ) {
    const requests = (end: End) => new Requests(places, (request) => this.#write(request, end));
    this.#requests = { reply: requests("reply"), confirm: requests("confirm"), answer: requests("answer") };
    const all = Object.values(this.#requests);
    this.#publisher = new Link(`${appId} publisher`, broker, {
      open: (channel) => this.#openPublisher(channel, all),
      lost: () => {
        this.#channel = undefined;
        for (const one of all) one.lost();
      },
      refused: (refusal) => all.forEach((one) => one.refuse(refusal)),
    });
    this.#consumer = new Link(`${appId} replies`, broker, {
      open: (channel) => this.#openConsumer(channel),
      lost: () => {
        this.#replyQueue = undefined;
        this.#requests.reply.lost(); // replies to the old queue are gone with it
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
    await Promise.all(Object.values(this.#requests).map((one) => one.drained(timeoutMs)));
    await Promise.all([this.#publisher.close(), this.#consumer.close()]);
  }

  async #openPublisher(channel: ConfirmChannel, all: readonly Requests[]): Promise<void> {
    channel.on("return", ({ fields: { exchange, routingKey }, properties }: Message) => {
      const text = `no queue takes ${routingKey} from the exchange '${exchange}'`; // comes before its confirm
      const error = new BillingConfiguration(`${text}: run \`billing-worker topology declare\``);
      for (const one of all) one.end(properties.correlationId, error);
    });
    channel.on("error", (error: Error) => {
      const refusal = refusalIn(error);
      if (refusal !== undefined) all.forEach((one) => one.refuseWritten(refusal));
    });
    await this.#consume(channel, DIRECT_REPLY_TO, this.#requests.answer);
    this.#channel = channel;
    for (const one of all) one.opened();
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
    const { exchange, routingKey, body } = request;
    const way = this.#wayOf(request, end);
    if (this.#channel === undefined || way === undefined) return false;
    this.#channel.publish(exchange, routingKey, body, { ...this.#properties(request), ...way }, (error) => {
      if (error?.message === "message nacked" && request.writes === 1) request.end(fullQueue(request));
      if (error !== null) return; // a lost channel: all is written again
      request.isConfirmed = true;
      if (end === "confirm") request.end(NOTHING);
    });
    return true;
  }

  /** Return the options by which a message and its end travel; none where there is no queue for replies. */
  #wayOf({ timeoutMs }: Request, end: End): Options.Publish | undefined {
    switch (end) {
      case "reply":
        return this.#replyQueue === undefined ? undefined : { persistent: true, replyTo: this.#replyQueue };
      case "confirm":
        return { persistent: true };
      case "answer": // nobody waits for it after that
        return { persistent: false, replyTo: DIRECT_REPLY_TO, expiration: timeoutMs };
    }
  }

  #properties({ id, type }: Request): Options.Publish {
    const ids = { correlationId: id, messageId: id }; // the same when it is sent again
    const sender = { appId: this.appId, userId: this.broker.user };
    return { contentType: "application/json", type, mandatory: true, ...ids, ...sender };
  }
}

const NOTHING = Buffer.alloc(0);

function fullQueue({ type, referenceId = "" }: Request): BillingUnavailable {
  return new BillingUnavailable(`${type} ${referenceId}: the broker refuses it, its queue is full; ${AGAIN}`);
}
