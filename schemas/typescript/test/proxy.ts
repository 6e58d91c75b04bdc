// A proxy in front of the broker, which breaks connections as a network does.

import net from "node:net";
import type { AddressInfo } from "node:net";
import tls from "node:tls";

interface Pair {
  name: string;
  readonly client: net.Socket;
  readonly broker: net.Socket;
}

/** A field of an AMQP table: its type, four bytes of length, the text. */
const NAME = /connection_nameS.{4}([ -~]+)/s;

/** Proxy to the broker of `url`. Connections are known by the name that they give themselves. */
export class Proxy {
  readonly #target: URL;
  readonly #pairs = new Set<Pair>();
  readonly #held = new Set<string>();
  readonly #server: net.Server;
  refuses = false;
  /** Number of connections that were refused. */
  refused = 0;
  /** Number of connections that were taken. */
  taken = 0;

  private constructor(url: string, certificates?: tls.TlsOptions) {
    this.#target = new URL(url);
    const accept = (client: net.Socket): void => this.#accept(client);
    this.#server = certificates ? tls.createServer(certificates, accept) : net.createServer(accept);
  }

  /** Start; with certificates its clients speak TLS. */
  static async start(url: string, certificates?: tls.TlsOptions): Promise<Proxy> {
    const proxy = new Proxy(url, certificates);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  /** URL of the same broker by way of the proxy. */
  get url(): string {
    const url = new URL(this.#target);
    url.host = `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return url.href;
  }

  /** Keep back what the broker sends on the connections of a name, until `release`. */
  hold(name: string): void {
    this.#held.add(name);
    for (const pair of this.#pairs) if (pair.name.includes(name)) pair.broker.pause();
  }

  release(): void {
    this.#held.clear();
    for (const pair of this.#pairs) pair.broker.resume();
  }

  /** Break all connections, or those of a name. */
  cut(named = ""): void {
    for (const { name, client, broker } of this.#pairs) {
      if (!name.includes(named)) continue;
      client.destroy();
      broker.destroy();
    }
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(client: net.Socket): void {
    if (this.refuses) {
      this.refused += 1;
      client.destroy();
      return;
    }
    this.taken += 1;
    const broker = net.connect(Number(this.#target.port), this.#target.hostname);
    const pair: Pair = { name: "", client, broker };
    this.#pairs.add(pair);
    client.on("data", (bytes) => {
      pair.name ||= NAME.exec(bytes.toString("latin1"))?.[1] ?? "";
      broker.write(bytes);
    });
    broker.on("data", (bytes) => {
      client.write(bytes);
      if ([...this.#held].some((name) => pair.name.includes(name))) broker.pause();
    });
    for (const [socket, other] of [
      [client, broker],
      [broker, client],
    ] as const) {
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
  }
}
