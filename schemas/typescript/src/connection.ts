// One connection to the broker that comes back by itself: amqplib's recovery, and what it leaves to us.

import amqp from "amqplib";
import type { Channel, ChannelModel, RecoveringChannelModel } from "amqplib";

import { BillingConfiguration } from "./errors.js";
import { atMost } from "./timing.js";

/** Address of a broker. */
export interface Address {
  readonly options: amqp.Options.Connect;
  readonly user: string;
  /** Options of the socket, such as certificates. */
  readonly socket: object;
}

/** Return the address of the broker that `url` names. The text of the error never holds the password. */
export function addressOf(url: string, socket: object = {}): Address {
  const parts = URL.canParse(url) ? new URL(url) : undefined;
  if (parts === undefined || !["amqp:", "amqps:"].includes(parts.protocol)) {
    throw new BillingConfiguration("the broker's URL can't be read: amqp://user:password@host:5672/vhost");
  }
  const user = decodeURIComponent(parts.username) || "guest";
  const options: amqp.Options.Connect = {
    protocol: parts.protocol.slice(0, -1),
    hostname: parts.hostname.replace(/^\[|\]$/g, ""),
    username: user,
    password: decodeURIComponent(parts.password) || "guest",
    vhost: parts.pathname.slice(1) || "/",
    heartbeat: Number(parts.searchParams.get("heartbeat") ?? HEARTBEAT_S),
    ...(parts.port ? { port: Number(parts.port) } : {}),
  };
  return { options, user, socket };
}

const HEARTBEAT_S = 15;
const CONNECT_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5_000;

/** Callbacks of a connection. */
export interface Events {
  /** Open the channels of a new connection; called again after each loss. */
  readonly open: (model: ChannelModel) => Promise<void>;
  /** The channels are gone; others will come. */
  readonly lost: () => void;
  /** The broker refuses, so somebody must act. The connection is tried again all the same. */
  readonly refused: (error: BillingConfiguration) => void;
}

/** Connection that is made anew, with all its channels, whenever it or one of them is lost. */
export class Connection {
  #recovering: Promise<RecoveringChannelModel> | undefined;
  #model: ChannelModel | undefined;

  constructor(
    private readonly name: string,
    private readonly address: Address,
    private readonly events: Events,
  ) {}

  /** Begin to connect, once. */
  start(): void {
    this.#recovering ??= this.#connect();
  }

  /** Close within two seconds, whether or not the broker answers. */
  async close(): Promise<void> {
    const recovering = await this.#recovering;
    await atMost(CLOSE_TIMEOUT_MS, recovering?.close());
    destroySocket(this.#model);
  }

  async #connect(): Promise<RecoveringChannelModel> {
    const recovering = await amqp.connect(this.address.options, {
      ...this.address.socket,
      noDelay: true, // without it a small message may wait 40 ms for an acknowledgement
      timeout: CONNECT_TIMEOUT_MS,
      clientProperties: { connection_name: this.name },
      recovery: {
        initialDelay: FIRST_DELAY_MS,
        maxDelay: LONGEST_DELAY_MS,
        waitForConnect: false,
        setup: async (model: ChannelModel) => {
          this.#model = model;
          model.on("error", () => {}); // "close" follows
          await this.events.open(model);
        },
      },
    });
    recovering.on("error", () => {}); // "disconnect" follows
    recovering.on("disconnect", () => this.events.lost());
    recovering.on("connect-failed", (error) => {
      this.events.lost();
      const refusal = refusalIn(error);
      if (refusal !== undefined) this.events.refused(refusal);
    });
    return recovering;
  }
}

/** End a socket whose other side is silent: it and its heartbeat would keep the process alive.
 *
 * amqplib waits for the other side to close; an error of the socket ends both. */
function destroySocket(model: ChannelModel | undefined): void {
  const connection = model?.connection as { stream?: { destroy?: (error: Error) => void } } | undefined;
  connection?.stream?.destroy?.(new Error("the client is closed"));
}

/** Return `channel`, whose loss ends its connection too: recovery, which watches connections alone, makes
 * both anew. */
export function tied<C extends Channel>(channel: C, model: ChannelModel, failed: (error: Error) => void): C {
  channel.on("error", failed);
  channel.on("close", () => setImmediate(() => model.close().catch(() => {}))); // closed before, mostly
  return channel;
}

/** amqplib shows the refusal of a virtual host as a frame that it did not expect, without the broker's text. */
const REFUSALS =
  /ACCESS.REFUSED|NOT.FOUND|PRECONDITION.FAILED|NOT.ALLOWED|ConnectionOpenOk; got <ConnectionClose/;

/** Return the error for a person to act on, where `error` is a refusal of the broker's. */
export function refusalIn(error: Error): BillingConfiguration | undefined {
  if (!REFUSALS.test(error.message)) return undefined;
  const way = /NOT.FOUND/.test(error.message)
    ? "; run `billing-worker topology declare`"
    : "; check user, password, virtual host and rights";
  return new BillingConfiguration(`the broker refuses: ${error.message}${way}`, { cause: error });
}
