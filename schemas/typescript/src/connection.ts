// One connection to the broker that comes back by itself: amqplib's recovery, and what it leaves to us.

import amqp from "amqplib";
import type { Channel, ChannelModel, RecoveringChannelModel } from "amqplib";

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
  const [user, password] = [parts.username, parts.password].map(
    (text) => decodeURIComponent(text) || "guest",
  );
  const credentials = amqp.credentials.plain(user!, password!); // amqplib's own reading of a URL breaks umlauts
  return { url: parts.href, user: user!, socket: { ...socket, credentials } };
}

/** Callbacks of a connection. */
export interface Events {
  /** Open the channels of a new connection; called again after each loss. */
  readonly open: (model: ChannelModel) => Promise<void>;
  /** The channels are gone; others will come. */
  readonly lost?: () => void;
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
    const setup = async (model: ChannelModel): Promise<void> => {
      this.#model = model;
      model.on("error", () => {}); // "close" follows
      await this.events.open(model);
    };
    const recovering = await amqp.connect(this.address.url, {
      ...this.address.socket,
      noDelay: true, // without it a small message may wait 40 ms for an acknowledgement
      timeout: CONNECT_TIMEOUT_MS,
      clientProperties: { connection_name: this.name },
      recovery: { ...RECOVERY, setup },
    });
    recovering.on("error", () => {}); // "disconnect" follows
    recovering.on("disconnect", () => this.events.lost?.());
    recovering.on("connect-failed", (error) => {
      this.events.lost?.();
      const refusal = refusalIn(error);
      if (refusal !== undefined) this.events.refused(refusal);
    });
    return recovering;
  }
}

/** Wait for `work`, at most some milliseconds. No timer is left. */
export async function atMost(milliseconds: number, work: Promise<unknown> | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, milliseconds)));
  await Promise.race([work, late]);
  clearTimeout(timer);
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
export function tied<C extends Channel>(channel: C, model: ChannelModel, failed?: (error: Error) => void): C {
  channel.on("error", (error: Error) => failed?.(error));
  channel.on("close", () => setImmediate(() => model.close().catch(() => {}))); // closed before, mostly
  return channel;
}

/** Call the channel; return false where it is closed, which its event is about to tell. */
export function isOpen(call: () => void): boolean {
  try {
    call();
  } catch (error) {
    if (error instanceof Error && error.name === "IllegalOperationError") return false;
    throw error;
  }
  return true;
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
