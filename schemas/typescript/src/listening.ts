// Subscriptions: each message is acknowledged after its handler, and a copy of it is not handled again.

import { setTimeout as pause } from "node:timers/promises";

import type { Channel, ConfirmChannel, ConsumeMessage } from "amqplib";

import { Link, atMost } from "./connection.js";
import type { Broker } from "./connection.js";
import { BillingUnavailable } from "./errors.js";
import { decode } from "./numbers.js";
import { requireCount, TIMEOUT_MAX_MS } from "./options.js";
import { traceIn } from "./trace.js";

/** Handler of messages; one that throws gets the message again. */
export type Handler<T> = (message: T, context: MessageContext) => void | Promise<void>;

export interface MessageContext {
  /** Trace context (W3C) of the message that this one tells of; undefined without one. */
  readonly traceparent?: string | undefined;
}

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
/** Largest prefetch that AMQP has a place for. */
const PREFETCH_MAX = 65_535;

/** Consumer of one queue on a connection of its own, so that a missing queue disturbs nothing else. */
export class Listener<T> implements Subscription {
  readonly #link: Link;
  readonly #concurrency: number;
  /** Runs of the handler by message id. One that succeeded stays: a copy ends with it. */
  readonly #runs = new Map<unknown, Promise<boolean>>();
  #channel: Channel | undefined;
  #hasOpened = false;
  #isClosing = false;
  #refusal: Error | undefined;

  /** `prepare` declares what is missing and returns the name of the queue. */
  constructor(
    name: string,
    broker: Broker,
    private readonly prepare: (channel: Channel) => Promise<string>,
    private readonly handler: Handler<T>,
    private readonly options: ListenOptions,
  ) {
    this.#concurrency = requireCount("concurrency", options.concurrency ?? 10, PREFETCH_MAX);
    this.#link = new Link(name, broker, {
      open: (channel) => this.#open(channel),
      lost: () => (this.#channel = undefined),
      refused: (error) => this.#refused(error),
    });
  }

  /** Begin, and return once messages are consumed. A refusal of the broker's ends it. */
  async start(): Promise<this> {
    try {
      await (await this.#link.start()).waitForConnect();
    } catch (error) {
      throw this.#refusal ?? new BillingUnavailable("the client is closed", { cause: error });
    }
    return this;
  }

  /** Stop; what is not acknowledged by then goes back to the queue. */
  async close({ timeoutMs = CLOSE_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<void> {
    requireCount("timeoutMs", timeoutMs, TIMEOUT_MAX_MS, 0);
    this.#isClosing = true;
    await atMost(timeoutMs, Promise.all(this.#runs.values()));
    this.#channel = undefined;
    await this.#link.close();
  }

  async #open(channel: ConfirmChannel): Promise<void> {
    this.#channel = channel;
    await channel.prefetch(this.#concurrency);
    await channel.consume(await this.prepare(channel), (delivery) => {
      if (delivery !== null && !this.#isClosing) void this.#take(channel, delivery);
    });
    this.#hasOpened = true;
  }

  /** Handle a delivery and acknowledge it; a copy that comes meanwhile waits for the same run. */
  async #take(channel: Channel, delivery: ConsumeMessage): Promise<void> {
    const id: unknown = delivery.properties.messageId ?? Symbol("no id, so no copies");
    const run = this.#runs.get(id) ?? this.#handle(delivery);
    this.#remember(id, run);
    const isDone = await run;
    if (!isDone) {
      this.#runs.delete(id);
      await pause(RETRY_DELAY_MS, undefined, { ref: false });
    }
    if (this.#channel !== channel) return; // the broker delivers again by itself
    if (isDone) channel.ack(delivery);
    else channel.nack(delivery);
  }

  async #handle(delivery: ConsumeMessage): Promise<boolean> {
    try {
      await this.handler(decode<T>(delivery.content), { traceparent: traceIn(delivery.properties.headers) });
      return true;
    } catch (error) {
      this.#report(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }

  #refused(error: Error): void {
    if (this.#hasOpened) return this.#report(error);
    this.#refusal = error;
    void this.#link.close();
  }

  #report(error: Error): void {
    if (this.options.onError === undefined) process.emitWarning(error);
    else this.options.onError(error);
  }

  #remember(id: unknown, run: Promise<boolean>): void {
    this.#runs.set(id, run);
    const [oldest] = this.#runs.keys();
    if (this.#runs.size > REMEMBERED) this.#runs.delete(oldest);
  }
}
