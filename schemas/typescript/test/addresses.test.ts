// Addresses of the broker: the forms of the worker's (tests/addresses), nodes that are tried in turn, and TLS.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { TlsOptions } from "node:tls";
import { afterEach, describe, test } from "node:test";

import { BillingClient, BillingConfiguration } from "@billing-worker/client";

import { addressOf } from "../src/addresses.js";
import { Proxy } from "./proxy.js";
import { PATIENCE_MS, certificate, url } from "./support.js";

const SECRET = "s3cr3t";

describe("a URL", () => {
  const NODES: [string, string[]][] = [
    ["amqp://u:p@a", ["a:5672"]],
    ["pyamqp://u:p@a/v", ["a:5672"]],
    ["amqps://u:p@a", ["a:5671"]],
    ["amqp://u:p@a:7/", ["a:7"]],
    ["amqp://u:p@a:/", ["a:5672"]],
    ["amqp:///", ["localhost:5672"]],
    ["amqp://u:p@[::1]:7/", ["::1:7"]],
    ["amqp://u:p@[fe80::1]", ["fe80::1:5672"]],
    ["amqp://u:p@a,amqp://u:p@b", ["a:5672", "b:5672"]],
    ["amqp://u:p@a, amqp://u:p@b", ["a:5672", "b:5672"]],
    ["amqp://u:p@a;amqp://u:p@b", ["a:5672", "b:5672"]],
    ["amqp://u:p@a/v?heartbeat=9;amqp://u:p@b/v", ["a:5672", "b:5672"]],
    ["amqp://u:p@a,b", ["a:5672", "b:5672"]],
    ["amqp://u:p@a;b", ["a:5672", "b:5672"]],
    ["amqp://u:p@a:1,b:2/v", ["a:1", "b:2"]],
    ["amqp://u:p@a,u:p@b/v", ["a:5672", "b:5672"]],
    ["amqp://a,b", ["a:5672", "b:5672"]],
    ["amqp://u:p@b,a", ["b:5672", "a:5672"]],
    ["amqp://u:p@a,a:5672,amqp://u:p@b,amqp://u:p@a", ["a:5672", "b:5672"]],
    ["amqps://u:p@[::1],[::2]:7", ["::1:5671", "::2:7"]],
  ];
  test("names nodes in order, and each once", () => {
    for (const [text, nodes] of NODES) {
      const found = addressOf(text).nodes.map(({ hostname, port }) => `${hostname}:${port}`);
      assert.deepEqual(found, nodes, text);
    }
  });

  const LOGINS: [string, string[]][] = [
    ["amqp://u:p@a,b/v", ["u", "p", "v"]],
    ["amqp://u:p%2Cw@a,amqp://u:p%2Cw@b", ["u", "p,w", "/"]],
    ["amqp://u:p,w@a,b", ["u", "p,w", "/"]],
    ["amqp://u:p;w@a", ["u", "p;w", "/"]],
    ["amqp://a%40b:p%2F%3F@h/%2F", ["a@b", "p/?", "/"]],
    ["amqp://a/x%2Cy", ["guest", "guest", "x,y"]],
    ["amqp://:p@a//", ["guest", "p", "/"]],
    ["amqp://u:50%off%C3%A4ö@a", ["u", "50%offäö", "/"]],
    ["amqp://j%C3%BCrgen:p%C3%A4@a", ["jürgen", "pä", "/"]],
  ];
  test("names one login and virtual host", () => {
    for (const [text, login] of LOGINS) {
      const { user, password, vhost } = addressOf(text);
      assert.deepEqual([user, password, vhost], login, text);
    }
  });

  const REFUSED: [string, RegExp][] = [
    [`amqp://u:${SECRET}@a,,b`, /empty address/],
    [`amqp://u:${SECRET}@a,`, /empty address/],
    [`amqp://u:${SECRET}@a,,amqp://u:${SECRET}@b`, /empty address/],
    [`,amqp://u:${SECRET}@a`, /can't be read/],
    [`amqp://u:${SECRET}@a,amqp://`, /differ/],
    [`amqp://u:${SECRET}@a,amqp://v:${SECRET}@b`, /differ/],
    [`amqp://u:${SECRET}@a,amqp://u:other@b`, /differ/],
    [`amqp://u:${SECRET}@a,amqp://u:${SECRET}@b/v`, /differ/],
    [`amqp://u:${SECRET}@a,amqps://u:${SECRET}@b`, /differ/],
    [`amqp://u:${SECRET}@a,v:${SECRET}@b`, /can't be read/],
    [`amqp://u:${SECRET}@${SECRET}@a`, /can't be read/],
    [`amqp://u:1,${SECRET}@2@a`, /can't be read/],
    [`amqp://u:${SECRET}`, /can't be read/],
    [`amqp://u:${SECRET}@a:70000`, /can't be read/],
    [`amqp://u:${SECRET}@a:0`, /can't be read/],
    [`amqp://u:${SECRET}@[::1`, /can't be read/],
    [`amqp://u:${SECRET}@a b`, /can't be read/],
    [`amqp://u:${SECRET}#@a`, /can't be read/],
    [`redis://u:${SECRET}@a`, /another scheme/],
    [SECRET, /can't be read/],
    ["", /can't be read/],
  ];
  test("that can mean two things is refused without its password", () => {
    for (const [text, message] of REFUSED) {
      const holdsNone = ({ message, cause }: Error) => !`${message}${String(cause)}`.includes(SECRET);
      assert.throws(() => new BillingClient({ url: text }), { name: "BillingConfiguration", message }, text);
      assert.throws(() => addressOf(text), holdsNone, text);
    }
  });

  const OPTIONS: [string, RegExp][] = [
    ["cacertfil=x", /unknown option 'cacertfil'.*cacertfile/],
    ["sslmode=require", /unknown option/],
    ["__proto__=x", /unknown option/],
    ["verify=verify_none", /verify_peer: it would trust any server/],
    ["server_name_indication=disable", /name in the broker's certificate/],
    ["keyfile=k", /without certfile/],
    ["cacertfile=", /cacertfile no value/],
    ["cacertfile=a&cacertfile=b", /cacertfile two values/],
    ["auth_mechanism=gssapi", /plain or external/],
    ["heartbeat=abc", /number of seconds/],
    ["heartbeat=0", /number of seconds/],
    ["heartbeat=601", /number of seconds/],
    ["connection_timeout=9e9", /number of milliseconds/],
  ];
  test("with an option that sets up the connection wrongly is refused", () => {
    for (const [query, message] of OPTIONS) {
      assert.throws(
        () => addressOf(`amqps://u:p@a,b?${query}`),
        { name: "BillingConfiguration", message },
        query,
      );
    }
  });

  test("with options of TLS needs TLS", () => {
    for (const query of ["cacertfile=x", "verify=verify_peer", "auth_mechanism=external"]) {
      assert.throws(() => addressOf(`amqp://u:p@a?${query}`), /write amqps:\/\//, query);
    }
    assert.throws(() => new BillingClient({ url: "amqp://a", tls: { ca: "x" } }), /amqps:\/\//);
  });

  test("may have its options behind each address", () => {
    const { options } = addressOf(
      "amqps://a?cacertfile=/x&heartbeat=9,amqps://b?cacertfile=/x&connection_timeout=600",
    );
    assert.deepEqual(options, { cacertfile: "/x", heartbeat: "9", connection_timeout: "600" });
  });

  test("with files that can't be used is refused", () => {
    for (const query of ["cacertfile=/not/there.pem", `certfile=${process.execPath}`]) {
      assert.throws(() => new BillingClient({ url: `amqps://a?${query}` }), BillingConfiguration, query);
    }
  });
});

describe("a broker", () => {
  const open: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const one of open.splice(0)) await one.close(); // clients first
  });

  async function node(certificates?: TlsOptions): Promise<Proxy> {
    const proxy = await Proxy.start(url("WORKER"), certificates);
    open.unshift(proxy);
    return proxy;
  }

  /** Return a client of several proxies, in the forms of lists. */
  function clientOf(list: string, options = {}): BillingClient {
    const client = new BillingClient({ url: list, timeoutMs: PATIENCE_MS, ...options });
    open.unshift({ close: () => client.close({ timeoutMs: 1 }) });
    return client;
  }

  /** Open an account by way of a client; it works then. */
  async function accountBy(client: BillingClient): Promise<string> {
    const userId = `user-${randomUUID()}`;
    const result = await client.openAccount({ referenceId: `open-${userId}`, userId, tier: "free" });
    assert.equal(result.status, "applied");
    return userId;
  }

  test("whose node is killed is reached by the next one within five seconds, with what is pending", async () => {
    const [first, second] = [await node(), await node()];
    const client = clientOf(`${first.url},${second.url}`);
    const userId = await accountBy(client);
    assert.deepEqual([first.taken, second.taken], [2, 0]);
    first.hold(""); // replies to what comes now are on their way when it is killed
    const pending = ["a", "b"].map((one) =>
      client.deduct({ referenceId: `${userId}/${one}`, userId, tokens: 1 }),
    );
    const killed = performance.now();
    await first.close();
    const results = await Promise.all(pending);
    assert.ok(performance.now() - killed < 5_000);
    assert.deepEqual(
      results.map(({ status }) => status),
      ["applied", "applied"],
    );
    assert.equal((await client.balance(userId))?.balance, 9_998);
  });

  test("that lost its connections is reached by the last good node", async () => {
    const [first, second] = [await node(), await node()];
    const client = clientOf(`${first.url},${second.url}`);
    first.refuses = true;
    await accountBy(client);
    first.refuses = false;
    second.cut();
    await accountBy(client);
    assert.deepEqual([first.taken, second.taken], [0, 4]);
  });

  test("has a node that says nothing, and the next one is used", async () => {
    const [silent, good] = [await node(), await node()];
    silent.hold(""); // all of them
    const began = performance.now();
    await accountBy(clientOf(`${silent.url}?connection_timeout=700;${good.url}`));
    assert.ok(performance.now() - began < 5_000);
  });

  test("with a private CA is trusted by the client of that CA alone", async () => {
    const [server, own] = [certificate("localhost"), certificate("app")];
    const ask = { ca: readFileSync(own.ca), requestCert: true, rejectUnauthorized: true };
    const secure = await node({ cert: readFileSync(server.cert), key: readFileSync(server.key), ...ask });
    const amqps = secure.url.replace("amqp:", "amqps:").replace("127.0.0.1", "localhost");
    const query = `?cacertfile=${own.ca}&certfile=${own.cert}&keyfile=${own.key}`;
    await accountBy(clientOf(amqps + query));

    const tls = { ca: readFileSync(own.ca), cert: readFileSync(own.cert), key: readFileSync(own.key) };
    await accountBy(clientOf(amqps, { tls }));
    const byNumber = amqps.replace("localhost", "127.0.0.1");
    const named = { ...tls, servername: "localhost" };
    await accountBy(clientOf(byNumber, { tls: named }));

    const [place, numbered] = [new URL(amqps).host, new URL(byNumber).host];
    const oneIsTrusted = amqps.replace(place, `${numbered},${place}`);
    await accountBy(clientOf(oneIsTrusted, { tls }));

    const refused = { name: "BillingConfiguration", message: /no TLS with the broker/ };
    for (const [list, given] of [
      [amqps, {}], // nobody's CA
      [byNumber, { tls }], // another name
      [amqps, { tls: { ca: tls.ca } }], // no certificate of its own
    ] as const) {
      await assert.rejects(accountBy(clientOf(list, given)), refused);
    }
  });
});
