// One channel on a connection of its own. amqplib recovers the connection; a channel that ends takes its connection
// with it, so that both are made anew.

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { createSecureContext } from "node:tls";
import type { ConnectionOptions, SecureContext } from "node:tls";

import amqp from "amqplib";
import type { ChannelModel, ConfirmChannel, RecoveringChannelModel } from "amqplib";

import { addressOf } from "./addresses.js";
import type { Address } from "./addresses.js";
import { BillingConfiguration } from "./errors.js";

const HEARTBEAT_S = 15;
const CONNECT_TIMEOUT_MS = 10_000;
/** Longest wait for a node where another one can be tried. */
const NODE_TIMEOUT_MS = 2_000;
const CLOSE_TIMEOUT_MS = 2_000;
const RECOVERY = { initialDelay: 100, maxDelay: 5_000, waitForConnect: false };

/** Certificates, as `node:tls` takes them: of the broker's CA, and of this client. */
export type Tls = Pick<ConnectionOptions, "ca" | "cert" | "key" | "servername">;

/** Address of a broker; the options of the socket hold certificates and credentials. */
export interface Broker extends Address {
  readonly socket: object;
}

/** Return the broker that `url` names, with its certificates; those in `tls` come before those of the URL. */
export function brokerOf(url: string, tls?: Tls): Broker {
  const address = addressOf(url);
  if (tls && !address.isSecure) throw new BillingConfiguration("tls needs a broker's URL with amqps://");
  const { user, password, options } = address;
  const isExternal = options.auth_mechanism?.toLowerCase() === "external";
  const credentials = isExternal ? amqp.credentials.external() : amqp.credentials.plain(user, password);
  const servername = tls?.servername ?? options.server_name_indication; // by default each node's own
  const secureContext = certificates(options, tls);
  return { ...address, socket: { servername, secureContext, rejectUnauthorized: true, credentials } };
}

function certificates(options: Address["options"], tls: Tls = {}): SecureContext {
  const { cacertfile, certfile, keyfile = certfile } = options;
  const read = (file?: string): Buffer | undefined => (file === undefined ? file : readFileSync(file));
  try {
    return createSecureContext({ ca: read(cacertfile), cert: read(certfile), key: read(keyfile), ...tls });
  } catch (cause) {
    throw new BillingConfiguration(`the certificates for the broker can't be used: ${cause}`, { cause });
  }
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
    private readonly broker: Broker,
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
    const { isSecure, nodes, vhost, options } = this.broker;
    const heartbeat = Number(options.heartbeat ?? HEARTBEAT_S);
    const wait = nodes.length > 1 ? NODE_TIMEOUT_MS : CONNECT_TIMEOUT_MS;
    const socket: object = { ...this.broker.socket, signal: this.#end.signal };
    const protocol = isSecure ? "amqps" : "amqp";
    const place = { ...nodes[0], protocol, vhost: encodeURIComponent(vhost), heartbeat };
    const recovering = await amqp.connect(place, {
      ...socket,
      noDelay: true, // without it a small message may wait 40 ms for an acknowledgement
      timeout: Number(options.connection_timeout ?? wait),
      clientProperties: { connection_name: this.name },
      recovery: { ...RECOVERY, setup: (model: ChannelModel) => this.#open(model) },
    });
    let [tried, failures] = [0, 0];
    recovering.on("error", () => {}); // its model told it
    recovering.on("connect", () => (failures = 0));
    recovering.on("connect-failed", (error) => {
      [tried, failures] = [tried + 1, failures + 1];
      // amqplib reads the place anew for each attempt: the last good node comes first, then the others in turn.
      Object.assign(place, nodes[tried % nodes.length]);
      const refusal = refusalIn(error);
      if (refusal !== undefined && failures >= nodes.length) this.events.refused(refusal);
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

/** Codes of Node's, and of OpenSSL's, for a certificate that one of the two sides doesn't take. */
const UNTRUSTED = /CERT|UNABLE_TO|UNKNOWN_CA/;

/** Return the error for a person to act on, where `error` is a refusal of the broker's, or one of its certificate. */
export function refusalIn(error: Error & { code?: unknown }): BillingConfiguration | undefined {
  if (UNTRUSTED.test(String(error.code))) {
    const way = "check cacertfile, server_name_indication, certfile and keyfile";
    return new BillingConfiguration(`no TLS with the broker: ${error.message}; ${way}`, { cause: error });
  }
  if (!REFUSALS.test(error.message)) return undefined;
  const way = /NOT.FOUND/.test(error.message)
    ? "run `billing-worker topology declare`"
    : "check user, password, virtual host and rights";
  return new BillingConfiguration(`the broker refuses: ${error.message}; ${way}`, { cause: error });
}
