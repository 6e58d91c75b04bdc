// The two connections that commands and queries go by, and the replies come back on.

import { randomUUID } from "node:crypto";

import type { Channel, ChannelModel, ConfirmChannel, ConsumeMessage, Message, Options } from "amqplib";

import { Connection, refusalIn, tied } from "./connection.js";
import type { Address } from "./connection.js";
import { BillingConfiguration, BillingUnavailable } from "./errors.js";
import { AGAIN, Requests } from "./requests.js";
import type { Pending } from "./requests.js";

const DIRECT_REPLY_TO = "amq.rabbitmq.reply-to";

/** Sender of commands and queries, on a connection of its own; replies come by another one. */
export class Wire {
  /** Commands that end with their reply. */
  readonly asked: Requests;
  /** Commands that end when the broker has them. */
  readonly published: Requests;
  readonly queries: Requests;

  readonly #publisher: Connection;
  readonly #consumer: Connection;
  #confirming: ConfirmChannel | undefined;
  #querying: Channel | undefined;
  #replyQueue: string | undefined;
  #isFull = false;

  constructor(
    private readonly address: Address,
    private readonly appId: string,
    places: number,
  ) {
    this.asked = new Requests(places, (request) => {
      return this.#replyQueue !== undefined && this.#writeCommand(request, this.#replyQueue);
    });
    this.published = new Requests(places, (request) => this.#writeCommand(request));
    this.queries = new Requests(places, (request) => this.#writeQuery(request));
    this.#publisher = new Connection(`${appId} publisher`, address, {
      open: (model) => this.#openPublisher(model),
      lost: () => this.#losePublisher(),
      refused: (refusal) => this.#all().forEach((requests) => requests.refuse(refusal)),
    });
    this.#consumer = new Connection(`${appId} replies`, address, {
      open: (model) => this.#openConsumer(model),
      lost: () => this.#loseConsumer(),
      refused: (refusal) => this.asked.refuse(refusal),
    });
  }

  /** Begin to connect; replies are consumed where they are awaited. */
  start({ consumes }: { consumes: boolean }): void {
    this.#publisher.start();
    if (consumes) this.#consumer.start();
  }

  /** Wait for what is pending, at most `timeoutMs`, then close the connections. */
  async close(timeoutMs: number): Promise<void> {
    await Promise.all(this.#all().map((requests) => requests.drained(timeoutMs)));
    await Promise.all([this.#publisher.close(), this.#consumer.close()]);
  }

  #all(): Requests[] {
    return [this.asked, this.published, this.queries];
  }

  // -- publishing ------------------------------------------------------------------------------------------

  async #openPublisher(model: ChannelModel): Promise<void> {
    const confirming = tied(await model.createConfirmChannel(), model, (error) => this.#refused(error));
    const querying = tied(await model.createChannel(), model, (error) => this.#refused(error));
    confirming.on("return", returnedTo(this.asked, this.published));
    confirming.on("drain", () => {
      this.#isFull = false;
      this.#pump();
    });
    querying.on("return", returnedTo(this.queries));
    await querying.consume(DIRECT_REPLY_TO, repliedTo(this.queries), { noAck: true });
    [this.#confirming, this.#querying, this.#isFull] = [confirming, querying, false];
    for (const requests of this.#all()) requests.accept();
    this.#pump();
  }

  #losePublisher(): void {
    this.#confirming = this.#querying = undefined;
    for (const requests of this.#all()) requests.lost({ all: false });
  }

  #pump(): void {
    for (const requests of this.#all()) requests.pump();
  }

  #refused(error: Error): void {
    const refusal = refusalIn(error);
    if (refusal === undefined) return;
    for (const requests of this.#all()) requests.refuseWritten(refusal);
  }

  #writeCommand(request: Pending, replyTo?: string): boolean {
    const channel = this.#confirming;
    if (channel === undefined || this.#isFull) return false;
    const properties = {
      ...this.#properties(request),
      persistent: true,
      ...(replyTo ? { replyTo } : {}),
    };
    const write = request.writes;
    const confirmed = (error: Error | null): void => {
      if (error === null) this.#confirmed(request, write);
      else if (error.message === NACKED && request.writes === 1) request.end(fullQueue(request));
    };
    return isOpen(() => {
      this.#isFull = !channel.publish(request.exchange, request.type, request.body, properties, confirmed);
    });
  }

  /** A confirm says nothing about the outcome; it ends only who doesn't wait for that. */
  #confirmed(request: Pending, write: number): void {
    if (this.published.get(request.id) === request) request.end(NOTHING);
    else if (request.writes === write) request.isConfirmed = true;
  }

  #writeQuery(request: Pending): boolean {
    const channel = this.#querying;
    if (channel === undefined) return false;
    const options: Options.Publish = {
      ...this.#properties(request),
      persistent: false,
      replyTo: DIRECT_REPLY_TO,
      expiration: request.timeoutMs, // nobody waits for the answer after that
    };
    return isOpen(() => channel.publish(request.exchange, request.type, request.body, options));
  }

  #properties(request: Pending): Options.Publish {
    return {
      contentType: "application/json",
      correlationId: request.id,
      messageId: request.id, // the same when it is sent again
      type: request.type,
      appId: this.appId,
      userId: this.address.user,
      mandatory: true,
    };
  }

  // -- replies ---------------------------------------------------------------------------------------------

  async #openConsumer(model: ChannelModel): Promise<void> {
    const channel = tied(await model.createChannel(), model, () => {});
    // A new name each time: the queue of a connection that died unnoticed is still locked.
    const queue = `billing.replies.${this.address.user}.${randomUUID()}`;
    await channel.assertQueue(queue, { exclusive: true, autoDelete: true, durable: false });
    const replied = repliedTo(this.asked);
    await channel.consume(
      queue,
      (delivery) => (delivery === null ? void channel.close() : replied(delivery)),
      {
        noAck: true,
      },
    );
    this.#replyQueue = queue;
    this.asked.accept();
    this.asked.pump();
  }

  /** Replies to the old queue are gone with it: everything is asked for again. */
  #loseConsumer(): void {
    this.#replyQueue = undefined;
    this.asked.lost({ all: true });
  }
}

/** amqplib's text for a broker's refusal; another error is a lost channel, and all is written again. */
const NACKED = "message nacked";
const NOTHING = Buffer.alloc(0);

/** Publish; return false where the channel is closed, which its event is about to tell. */
function isOpen(publish: () => void): boolean {
  try {
    publish();
  } catch (error) {
    if (error instanceof Error && error.name === "IllegalOperationError") return false;
    throw error;
  }
  return true;
}

function fullQueue({ type, referenceId }: Pending): BillingUnavailable {
  return new BillingUnavailable(`${type} ${referenceId}: the broker refuses it, its queue is full; ${AGAIN}`);
}

function repliedTo(requests: Requests): (delivery: ConsumeMessage | null) => void {
  return (delivery) => {
    if (delivery !== null) requests.get(delivery.properties.correlationId)?.end(delivery.content);
  };
}

/** A message that no queue takes comes back before its confirm. */
function returnedTo(...all: Requests[]): (returned: Message) => void {
  return (returned) => {
    const { exchange, routingKey } = returned.fields;
    const text = `no queue takes ${routingKey} from the exchange '${exchange}': run \`billing-worker topology declare\``;
    for (const requests of all)
      requests.get(returned.properties.correlationId)?.end(new BillingConfiguration(text));
  };
}
