// The two connections that commands and queries go by, and that their replies come back on.

import { randomUUID } from "node:crypto";

import type { Channel, ChannelModel, ConfirmChannel, ConsumeMessage, Message, Options } from "amqplib";

import { Connection, isOpen, refusalIn, tied } from "./connection.js";
import type { Address } from "./connection.js";
import { BillingConfiguration, BillingUnavailable } from "./errors.js";
import { AGAIN, Requests } from "./requests.js";
import type { Request } from "./requests.js";

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
  #commanding: ConfirmChannel | undefined;
  #querying: Channel | undefined;
  #replyQueue: string | undefined;

  constructor(
    private readonly address: Address,
    private readonly appId: string,
    places: number,
  ) {
    this.asked = new Requests(places, (request) => {
      return this.#replyQueue !== undefined && this.#writeCommand(request, { replyTo: this.#replyQueue });
    });
    this.published = new Requests(places, (request) => this.#writeCommand(request));
    this.queries = new Requests(places, (request) => this.#writeQuery(request));
    this.#publisher = new Connection(`${appId} publisher`, address, {
      open: (model) => this.#openPublisher(model),
      lost: () => {
        this.#commanding = this.#querying = undefined;
        for (const requests of this.#all()) requests.lost();
      },
      refused: (refusal) => this.#all().forEach((requests) => requests.refuse(refusal)),
    });
    this.#consumer = new Connection(`${appId} replies`, address, {
      open: (model) => this.#openConsumer(model),
      lost: () => {
        this.#replyQueue = undefined;
        this.asked.lost(); // replies to the old queue are gone with it
      },
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

  #find({ properties }: Message): Request | undefined {
    return this.#all()
      .map((requests) => requests.get(properties.correlationId))
      .find((request) => request !== undefined);
  }

  // -- publishing ------------------------------------------------------------------------------------------

  async #openPublisher(model: ChannelModel): Promise<void> {
    const commanding = tied(await model.createConfirmChannel(), model, (error) => this.#failed(error));
    const querying = tied(await model.createChannel(), model, (error) => this.#failed(error));
    for (const channel of [commanding, querying])
      channel.on("return", (returned) => this.#returned(returned));
    await querying.consume(DIRECT_REPLY_TO, (answer) => this.#replied(answer), { noAck: true });
    [this.#commanding, this.#querying] = [commanding, querying];
    for (const requests of this.#all()) {
      requests.accept();
      requests.pump();
    }
  }

  /** Give a command to the broker, whose confirm ends those that wait for no reply. */
  #writeCommand(request: Request, more: Options.Publish = {}): boolean {
    const confirmed = (error: Error | null): void => {
      if (error?.message === NACKED && request.writes === 1) request.end(fullQueue(request));
      if (error !== null) return; // a lost channel: all is written again
      if (this.published.get(request.id) === request) request.end(NOTHING);
      else request.isConfirmed = true;
    };
    const options = { ...this.#properties(request), persistent: true, ...more };
    const { exchange, type, body } = request;
    const channel = this.#commanding;
    return channel !== undefined && isOpen(() => channel.publish(exchange, type, body, options, confirmed));
  }

  #writeQuery(request: Request): boolean {
    const options: Options.Publish = {
      ...this.#properties(request),
      persistent: false,
      replyTo: DIRECT_REPLY_TO,
      expiration: request.timeoutMs, // nobody waits for the answer after that
    };
    const { exchange, type, body } = request;
    const channel = this.#querying;
    return channel !== undefined && isOpen(() => channel.publish(exchange, type, body, options));
  }

  #properties({ id, type }: Request): Options.Publish {
    return {
      contentType: "application/json",
      correlationId: id,
      messageId: id, // the same when it is sent again
      type,
      appId: this.appId,
      userId: this.address.user,
      mandatory: true,
    };
  }

  /** A message that no queue takes comes back before its confirm. */
  #returned(returned: Message): void {
    const { exchange, routingKey } = returned.fields;
    const text = `no queue takes ${routingKey} from the exchange '${exchange}'`;
    this.#find(returned)?.end(new BillingConfiguration(`${text}: run \`billing-worker topology declare\``));
  }

  #failed(error: Error): void {
    const refusal = refusalIn(error);
    if (refusal !== undefined) this.#all().forEach((requests) => requests.refuseWritten(refusal));
  }

  // -- replies ---------------------------------------------------------------------------------------------

  async #openConsumer(model: ChannelModel): Promise<void> {
    const channel = tied(await model.createChannel(), model);
    // A new name each time: the queue of a connection that died unnoticed is still locked.
    const queue = `billing.replies.${this.address.user}.${randomUUID()}`;
    await channel.assertQueue(queue, { exclusive: true, autoDelete: true, durable: false });
    const replied = (reply: ConsumeMessage | null): void => {
      if (reply === null)
        channel.close().catch(() => {}); // the queue was deleted
      else this.#replied(reply);
    };
    await channel.consume(queue, replied, { noAck: true });
    this.#replyQueue = queue;
    this.asked.accept();
    this.asked.pump();
  }

  #replied(reply: ConsumeMessage | null): void {
    if (reply !== null) this.#find(reply)?.end(reply.content);
  }
}

/** amqplib's text for a broker's refusal of one message. */
const NACKED = "message nacked";
const NOTHING = Buffer.alloc(0);

function fullQueue({ type, referenceId }: Request): BillingUnavailable {
  return new BillingUnavailable(`${type} ${referenceId}: the broker refuses it, its queue is full; ${AGAIN}`);
}
