// One channel on a connection of its own. amqplib recovers the connection; a channel that ends takes its connection
// with it, so that both are made anew.

import { setTimeout as pause } from "node:timers/promises";

import amqp from "amqplib";
import type { ChannelModel, ConfirmChannel, RecoveringChannelModel } from "amqplib";

import { BillingConfiguration } from "./errors.js";

const HEARTBEAT_S = "15";
const CONNECT_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
const RECOVERY = { initialDelay: 100, maxDelay: 5_000, waitForConnect: false };

/** Address of a broker; the options of its socket hold the credentials. */
export interface Address {
  readonly url: string;
  readonly user: string;
  readonly socket: object;
}

/** Return the address of the broker that `url` names. The text of the error never holds the password. */
export function addressOf(url: string, socket: object = {}): Address {
  const parts = URL.canParse(url) ? new URL(url) : undefined;
  if (parts === undefined || !["amqp:", "amqps:"].includes(parts.protocol)) {
    throw new BillingConfiguration("the broker's URL can't be read: amqp://user:password@host:5672/vhost");
  }
  if (!parts.searchParams.has("heartbeat")) parts.searchParams.set("heartbeat", HEARTBEAT_S);
  const named = (text: string): string => decodeURIComponent(text) || "guest";
  const user = named(parts.username);
  const credentials = amqp.credentials.plain(user, named(parts.password)); // amqplib's reading breaks umlauts
  return { url: parts.href, user, socket: { ...socket, credentials } };
}

/** Callbacks of a link. */
export interface Events {
  /** Prepare a new channel; called again after each loss. */
  readonly open: (channel: ConfirmChannel) => Promise<void>;
  /** The channel is gone; another one will come. */
  readonly lost: () => void;
  /** The broker refuses, so somebody must act. The connection is tried again all the same. */
  readonly refused: (error: BillingConfiguration) => void;
}

/** Channel with its connection, made anew whenever either of them is lost. */
export class Link {
  #recovering: Promise<RecoveringChannelModel> | undefined;
  readonly #end = new AbortController();

  constructor(
    private readonly name: string,
    private readonly address: Address,
    private readonly events: Events,
  ) {}

  /** Begin to connect, once. */
  start(): Promise<RecoveringChannelModel> {
    return (this.#recovering ??= this.#connect());
  }

  /** Close within two seconds, whether or not the broker answers. */
  async close(): Promise<void> {
    const recovering = await this.#recovering;
    await atMost(CLOSE_TIMEOUT_MS, recovering?.close());
    this.#end.abort(); // a socket whose other side is silent would keep the process alive
  }

  async #connect(): Promise<RecoveringChannelModel> {
    const socket: object = { ...this.address.socket, signal: this.#end.signal };
    const recovering = await amqp.connect(this.address.url, {
      ...socket,
      noDelay: true, // without it a small message may wait 40 ms for an acknowledgement
      timeout: CONNECT_TIMEOUT_MS,
      clientProperties: { connection_name: this.name },
      recovery: { ...RECOVERY, setup: (model: ChannelModel) => this.#open(model) },
    });
    recovering.on("error", () => {}); // its model told it
    recovering.on("connect-failed", (error) => {
      const refusal = refusalIn(error);
      if (refusal !== undefined) this.events.refused(refusal);
    });
    return recovering;
  }

  async #open(model: ChannelModel): Promise<void> {
    model.on("error", this.events.lost);
    const channel = await model.createConfirmChannel();
    channel.on("error", () => {}); // "close" follows
    channel.on("cancel", () => channel.close().catch(() => {})); // its queue was deleted
    channel.on("close", () => {
      this.events.lost();
      setImmediate(() => model.close().catch(() => {})); // closed before, mostly
    });
    await this.events.open(channel);
  }
}

/** Wait for `work`, at most some milliseconds. */
export async function atMost(milliseconds: number, work: Promise<unknown> | undefined): Promise<void> {
  await Promise.race([work, pause(milliseconds, undefined, { ref: false })]);
}

/** amqplib shows the refusal of a virtual host as a frame that it did not expect, without the broker's text. */
const REFUSALS =
  /ACCESS.REFUSED|NOT.FOUND|PRECONDITION.FAILED|NOT.ALLOWED|ConnectionOpenOk; got <ConnectionClose/;

/** Return the error for a person to act on, where `error` is a refusal of the broker's. */
export function refusalIn(error: Error): BillingConfiguration | undefined {
  if (!REFUSALS.test(error.message)) return undefined;
  const way = /NOT.FOUND/.test(error.message)
    ? "run `billing-worker topology declare`"
    : "check user, password, virtual host and rights";
  return new BillingConfiguration(`the broker refuses: ${error.message}; ${way}`, { cause: error });
}
