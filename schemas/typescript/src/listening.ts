// Subscriptions: each message is acknowledged after its handler, and a copy of it is not handled again.

import { setTimeout as pause } from "node:timers/promises";

import type { Channel, ChannelModel, ConsumeMessage } from "amqplib";

import { Connection, atMost, isOpen, tied } from "./connection.js";
import type { Address } from "./connection.js";
import { BillingUnavailable } from "./errors.js";
import { decode } from "./numbers.js";

/** Handler of messages; one that throws gets the message again. */
export type Handler<T> = (message: T) => void | Promise<void>;

export interface ListenOptions {
  /** Most messages that are handled at a time; default 10. */
  readonly concurrency?: number;
  /** Called with an error of the handler, and with a broker's refusal; by default a warning of the process. */
  readonly onError?: (error: Error) => void;
}

/** Open subscription. `close` waits for running handlers, by default for ten seconds. */
export interface Subscription {
  close(options?: { timeoutMs?: number }): Promise<void>;
}

const CLOSE_TIMEOUT_MS = 10_000;
/** Time before a message whose handler failed is given back. */
const RETRY_DELAY_MS = 1_000;
/** Number of handled ids that are remembered, to recognize copies. */
const REMEMBERED = 10_000;

/** Consumer of one queue on a connection of its own, so that a missing queue disturbs nothing else. */
export class Listener<T> implements Subscription {
  readonly #connection: Connection;
  readonly #handled = new Set<unknown>();
  readonly #running = new Map<unknown, Promise<boolean>>();
  #isClosing = false;
  #opened: (() => void) | undefined;
  #refused: ((error: Error) => void) | undefined;

  /** `prepare` declares what is missing and returns the name of the queue. */
  constructor(
    name: string,
    address: Address,
    private readonly prepare: (channel: Channel) => Promise<string>,
    private readonly handler: Handler<T>,
    private readonly options: ListenOptions,
  ) {
    this.#connection = new Connection(name, address, {
      open: (model) => this.#open(model),
      refused: (error) => (this.#refused ?? this.#report)(error),
    });
  }

  /** Begin, and return once messages are consumed. A refusal of the broker's ends it. */
  async start(): Promise<this> {
    try {
      await new Promise<void>((resolve, reject) => {
        [this.#opened, this.#refused] = [resolve, reject];
        this.#connection.start();
      });
    } catch (error) {
      await this.#connection.close();
      throw error;
    }
    this.#opened = this.#refused = undefined;
    return this;
  }

  /** Stop; what is not acknowledged by then goes back to the queue. */
  async close({ timeoutMs = CLOSE_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<void> {
    this.#refused?.(new BillingUnavailable("the client is closed"));
    this.#isClosing = true;
    await atMost(timeoutMs, Promise.all(this.#running.values()));
    await this.#connection.close();
  }

  async #open(model: ChannelModel): Promise<void> {
    const channel = tied(await model.createChannel(), model);
    await channel.prefetch(this.options.concurrency ?? 10);
    await channel.consume(await this.prepare(channel), (delivery) => {
      if (delivery === null)
        channel.close().catch(() => {}); // the queue was deleted
      else void this.#take(channel, delivery);
    });
    this.#opened?.();
  }

  /** Handle a delivery and acknowledge it; a copy that comes meanwhile waits for the same run. */
  async #take(channel: Channel, delivery: ConsumeMessage): Promise<void> {
    if (this.#isClosing) return;
    const id: unknown = delivery.properties.messageId ?? Symbol("no id, so no copies");
    const isDone = this.#handled.has(id) || (await (this.#running.get(id) ?? this.#run(id, delivery)));
    if (!isDone) await pause(RETRY_DELAY_MS, undefined, { ref: false });
    // Where the channel is lost, the broker delivers again by itself.
    isOpen(() => (isDone ? channel.ack(delivery) : channel.nack(delivery)));
  }

  #run(id: unknown, delivery: ConsumeMessage): Promise<boolean> {
    const run = this.#handle(delivery).then((isDone) => {
      this.#running.delete(id);
      if (isDone) this.#remember(id);
      return isDone;
    });
    this.#running.set(id, run);
    return run;
  }

  async #handle(delivery: ConsumeMessage): Promise<boolean> {
    try {
      await this.handler(decode<T>(delivery.content));
      return true;
    } catch (error) {
      this.#report(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }

  readonly #report = (error: Error): void => {
    if (this.options.onError === undefined) process.emitWarning(error);
    else this.options.onError(error);
  };

  #remember(id: unknown): void {
    this.#handled.add(id);
    const [oldest] = this.#handled;
    if (this.#handled.size > REMEMBERED) this.#handled.delete(oldest);
  }
}
