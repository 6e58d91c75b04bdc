// Messages between client and broker, with a stand-in for the worker and a network that breaks.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import {
  BillingClient,
  BillingConfiguration,
  BillingFailed,
  BillingNumberTooLarge,
  BillingRefused,
  BillingTimeout,
  BillingUnavailable,
} from "@billing-worker/client";
import type { Command } from "@billing-worker/client";

import { Proxy } from "./proxy.js";
import { PATIENCE_MS, StandIn, bodyOf, eventually, firstOutput, url } from "./support.js";

const USER = decodeURIComponent(new URL(url("BARE")).username);

let standIn: StandIn;
let proxy: Proxy;
let client: BillingClient;

before(async () => {
  standIn = await StandIn.start(url("BARE"));
});

beforeEach(async () => {
  await standIn.reset();
  proxy = await Proxy.start(url("BARE"));
  client = new BillingClient({ url: proxy.url, maxPending: 5, timeoutMs: PATIENCE_MS });
});

afterEach(async () => {
  await client.close({ timeoutMs: 1 });
  await proxy.close();
});

after(() => standIn.close());

function deduct(referenceId: string, tokens = 1) {
  return client.deduct({ referenceId, userId: "ada", tokens });
}

/** Have a command applied; the client is connected then. */
async function appliedAtOnce(referenceId: string): Promise<void> {
  const result = deduct(referenceId);
  standIn.apply(await standIn.next());
  assert.equal((await result).status, "applied");
}

function failed(referenceId: string) {
  return client.paymentFailed({ referenceId, userId: "ada", originalReferenceId: "p-1" });
}

/** Return the error of a command while a full queue, too, is to take its type. */
async function withFullQueue(type: string, send: () => Promise<unknown>): Promise<unknown> {
  const { channel } = standIn;
  await channel.assertQueue("full", { arguments: { "x-max-length": 0, "x-overflow": "reject-publish" } });
  await channel.bindQueue("full", "billing", type);
  try {
    return await send().then(
      () => undefined,
      (error: unknown) => error,
    );
  } finally {
    await channel.deleteQueue("full");
  }
}

describe("a command", () => {
  test("is persistent, names its sender and a reply queue of its own, and never expires", async () => {
    const result = deduct("job-1");
    const message = await standIn.next();
    standIn.apply(message);
    assert.equal((await result).status, "applied");
    const { properties, fields } = message;
    assert.equal(fields.exchange, "billing");
    assert.equal(fields.routingKey, "usage.deduct");
    assert.equal(properties.deliveryMode, 2);
    assert.equal(properties.userId, USER);
    assert.equal(properties.appId, "billing-client");
    assert.equal(Math.floor((properties.headers?.timestamp_in_ms as number) / 1000), properties.timestamp);
    assert.ok(Math.abs((properties.timestamp as number) * 1000 - Date.now()) < 60_000);
    assert.equal(properties.expiration, undefined);
    assert.match(properties.replyTo as string, new RegExp(`^billing\\.replies\\.${USER}\\.[0-9a-f-]{36}$`));
    assert.deepEqual(bodyOf(message), {
      type: "usage.deduct",
      referenceId: "job-1",
      userId: "ada",
      tokens: 1,
    });
  });

  test("takes its trace context along, and refuses one that is none", async () => {
    const command = { type: "usage.deduct", referenceId: "traced", userId: "ada", tokens: 1 } as const;
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    await client.publish(command, { traceparent });
    assert.equal((await standIn.next()).properties.headers?.["traceparent"], traceparent);
    await client.publish(command);
    assert.equal((await standIn.next()).properties.headers?.["traceparent"], undefined);
    await assert.rejects(client.publish(command, { traceparent: "nonsense" }), BillingRefused);
  });

  test("that is published ends with the broker's confirm and names no reply queue", async () => {
    await client.publish({ type: "usage.deduct", referenceId: "job-2", userId: "ada", tokens: 1 });
    const { properties } = await standIn.next();
    assert.equal(properties.replyTo, undefined);
  });

  test("whose reply overtakes the confirm has its result", async () => {
    await appliedAtOnce("job-3");
    proxy.hold("publisher");
    const result = deduct("job-4");
    standIn.apply(await standIn.next());
    assert.equal((await result).status, "applied");
    proxy.release();
  });

  test("is sent again with the same ids when the broker goes away between confirm and reply", async () => {
    const result = deduct("job-5");
    const sent = await standIn.next();
    proxy.cut();
    standIn.apply(sent); // to a queue that is gone
    const again = await standIn.next();
    assert.deepEqual(bodyOf(again), bodyOf(sent));
    assert.equal(again.properties.messageId, sent.properties.messageId);
    assert.notEqual(again.properties.replyTo, sent.properties.replyTo);
    standIn.apply(again);
    assert.equal((await result).status, "applied");
  });

  test("is sent again when only the connection for replies is lost", async () => {
    const result = deduct("job-9");
    const sent = await standIn.next();
    proxy.cut("replies");
    const again = await standIn.next();
    assert.deepEqual(bodyOf(again), bodyOf(sent));
    standIn.apply(again);
    assert.equal((await result).status, "applied");
  });

  test("is sent again when its confirm comes after the loss of the connection for replies", async () => {
    await appliedAtOnce("job-10");
    proxy.hold("publisher");
    const result = deduct("job-11");
    const sent = await standIn.next();
    proxy.refuses = true;
    proxy.cut("replies");
    await eventually(() => proxy.refused > 0);
    proxy.release();
    await client.publish({ type: "usage.deduct", referenceId: "job-12", userId: "ada", tokens: 1 });
    await standIn.next();
    proxy.refuses = false;
    const again = await standIn.next();
    assert.deepEqual(bodyOf(again), bodyOf(sent));
    standIn.apply(again);
    assert.equal((await result).status, "applied");
  });

  test("without a confirm is sent again, and what waits meanwhile follows in order", async () => {
    await appliedAtOnce("job-6");
    proxy.hold("publisher");
    const published = client.publish({
      type: "usage.deduct",
      referenceId: "job-7",
      userId: "ada",
      tokens: 1,
    });
    const sent = await standIn.next();
    proxy.refuses = true;
    proxy.cut();
    proxy.release();
    const later = client.publish({
      type: "usage.deduct",
      referenceId: "job-8",
      userId: "ada",
      tokens: 1,
    });
    proxy.refuses = false;
    await Promise.all([published, later]);
    const again = [bodyOf(await standIn.next()).referenceId, bodyOf(await standIn.next()).referenceId];
    assert.deepEqual([bodyOf(sent).referenceId, ...again], ["job-7", "job-7", "job-8"]);
  });

  test("waits for its turn where enough are with the broker", async () => {
    const results = Array.from({ length: 12 }, (_, number) => deduct(`turn-${number}`));
    await eventually(() => standIn.messages.length === 5);
    const other = new BillingClient({ url: url("BARE") }); // what it sends comes after all that is on its way
    await other.publish({ type: "usage.deduct", referenceId: "last", userId: "ada", tokens: 1 });
    await other.close();
    await eventually(() => standIn.messages.some((message) => bodyOf(message).referenceId === "last"));
    assert.equal(standIn.messages.length, 6);
    const seen: string[] = [];
    for (let number = 0; number < 13; number += 1) {
      const message = await standIn.next();
      seen.push(bodyOf(message).referenceId);
      if (seen.at(-1) !== "last") standIn.apply(message);
    }
    await Promise.all(results);
    assert.deepEqual(
      seen.filter((name) => name !== "last"),
      results.map((_, number) => `turn-${number}`),
    );
  });
});

describe("an error says what to do", () => {
  test("BillingTimeout: no reply came, the outcome is unknown", async () => {
    await appliedAtOnce("late-0"); // a command that waits for a connection may end unsent
    const result = client.deduct({ referenceId: "late-1", userId: "ada", tokens: 1 }, { timeoutMs: 300 });
    await assert.rejects(
      result,
      (error: BillingTimeout) => error instanceof BillingTimeout && error.referenceId === "late-1",
    );
  });

  test("BillingUnavailable: nothing was sent", async () => {
    proxy.refuses = true;
    const result = client.deduct({ referenceId: "late-2", userId: "ada", tokens: 1 }, { timeoutMs: 300 });
    await assert.rejects(result, BillingUnavailable);
    proxy.refuses = false;
  });

  test("BillingUnavailable: the queue is full", async () => {
    const result = await withFullQueue("payment.failed", () => failed("f-1"));
    assert.ok(result instanceof BillingUnavailable && /full/.test(result.message));
  });

  test("a channel that refuses from its first message on is followed by another one", async (context) => {
    await appliedAtOnce("job-1");
    const before = proxy.taken;
    await withFullQueue("payment.failed", () => failed("f-1"));
    assert.equal(proxy.taken, before, "the channel is new");
    const later = performance.now() + 2_000;
    context.mock.method(performance, "now", () => later);
    await withFullQueue("usage.deduct", () => deduct("job-2"));
    assert.equal(proxy.taken, before, "it has taken such a message");
    await standIn.reset(); // the queue beside the full one has them
    const pending = deduct("pending");
    const message = await standIn.next();
    await withFullQueue("payment.failed", () => failed("f-2"));
    const [, next] = [await standIn.next(), deduct("job-3")];
    assert.equal(bodyOf(await standIn.next()).referenceId, "job-3", "what is confirmed is not sent again");
    assert.equal(proxy.taken, before + 1);
    standIn.apply(message);
    assert.equal((await pending).status, "applied");
    void next.catch(() => {}); // it ends with the client
  });

  test("BillingRefused: a number is no exact whole number, before anything is sent", async () => {
    for (const tokens of [1.5, NaN, 2 ** 53, Infinity]) {
      await assert.rejects(deduct("odd-1", tokens), (error: BillingRefused) => error.field === "tokens");
    }
    assert.equal(standIn.messages.length, 0);
  });

  const replies = [
    [
      "BillingRefused: malformed",
      { code: "malformed", reason: "invalid_field", field: "tokens" },
      BillingRefused,
    ],
    [
      "BillingConfiguration: the sender has no right",
      { code: "malformed", reason: "wrong_sender" },
      BillingConfiguration,
    ],
    ["BillingFailed: a fault of the worker's", { code: "unprocessable" }, BillingFailed],
  ] as const;
  for (const [name, reply, kind] of replies) {
    test(name, async () => {
      const result = deduct("bad-1");
      standIn.reply(await standIn.next(), {
        status: "failed",
        message: "no",
        duplicate: false,
        ...reply,
      });
      await assert.rejects(result, kind);
    });
  }

  test("BillingConfiguration: no queue takes the command", async () => {
    const stray = { type: "stray.command", referenceId: "s-1", userId: "ada" } as unknown as Command;
    await assert.rejects(client.request(stray), BillingConfiguration);
  });

  test("BillingConfiguration: an exchange is missing, and other commands are not disturbed", async () => {
    standIn.appliesAll = true;
    const good = deduct("good-1");
    const published = client.publish({
      type: "usage.deduct",
      referenceId: "good-2",
      userId: "ada",
      tokens: 1,
    });
    const asked = client.operation("good-1");
    const missing = client.deduct({ referenceId: "bulk-1", userId: "ada", tokens: 1 }, { lane: "bulk" });
    await assert.rejects(
      missing,
      (error) => error instanceof BillingConfiguration && /billing\.bulk/.test(error.message),
    );
    assert.equal((await good).status, "applied");
    await Promise.all([published, asked]);
  });

  test("BillingConfiguration: the password is wrong, without the password in the text", async () => {
    const wrong = new URL(url("BARE"));
    wrong.password = "secret";
    const refused = new BillingClient({ url: wrong.href });
    const result = refused.publish({
      type: "usage.deduct",
      referenceId: "p-1",
      userId: "ada",
      tokens: 1,
    });
    await assert.rejects(
      result,
      (error) => error instanceof BillingConfiguration && !error.message.includes("secret"),
    );
    await refused.close();
  });

  test("BillingConfiguration: the URL can't be read", () => {
    for (const broken of ["", "localhost", "http://localhost", "amqp//guest"]) {
      assert.throws(() => new BillingClient({ url: broken }), BillingConfiguration);
    }
  });
});

describe("a number", () => {
  const large = "9007199254740993"; // 2^53 + 1

  test("above 2^53 in a reply is refused, and the error has it exactly", async () => {
    const result = deduct("large-1");
    const reply = `{"status":"applied","code":"tokens_deducted","message":"","duplicate":false,"balanceAfter":${large}}`;
    standIn.reply(await standIn.next(), reply);
    await assert.rejects(result, (error: BillingNumberTooLarge) => {
      return (
        error instanceof BillingNumberTooLarge &&
        (error.body as { balanceAfter: bigint }).balanceAfter === BigInt(large)
      );
    });
  });

  test("above 2^53 in metadata is a bigint, both ways", async () => {
    const metadata = { chat: BigInt(large) };
    const result = client.deduct({ referenceId: "large-2", userId: "ada", tokens: 1, metadata });
    const message = await standIn.next();
    assert.match(message.content.toString(), new RegExp(`"chat":${large}`));
    const answer = client.history("ada");
    const reply = `{"type":"answer.history","transactions":[{"metadata":{"chat":${large}}}],"limit":1,"hasMore":false}`;
    standIn.reply(await standIn.next(), reply);
    assert.deepEqual((await answer)?.transactions[0]?.metadata, metadata);
    standIn.apply(message);
    await result;
  });
});

describe("a query", () => {
  test("is answered directly, is not kept by the broker, and expires with its caller's patience", async () => {
    const answer = client.stats({ timeoutMs: PATIENCE_MS });
    const message = await standIn.next();
    standIn.reply(message, { type: "answer.stats", users: 3 });
    assert.equal((await answer).users, 3);
    assert.match(message.properties.replyTo as string, /^amq\.rabbitmq\.reply-to/);
    assert.equal(message.properties.deliveryMode, 1);
    assert.equal(message.properties.expiration, String(PATIENCE_MS));
  });

  test("is asked again when the broker goes away", async () => {
    const answer = client.stats();
    await standIn.next();
    proxy.cut();
    standIn.reply(await standIn.next(), { type: "answer.stats", users: 4 });
    assert.equal((await answer).users, 4);
  });

  test("about an unknown account has null, an unreadable one is refused, an unanswered one is unavailable", async () => {
    const unknown = client.balance("nobody");
    standIn.reply(await standIn.next(), {
      type: "answer.problem",
      code: "account_not_found",
      message: "",
    });
    assert.equal(await unknown, null);
    const unreadable = client.history("ada", { limit: 10 ** 9 });
    standIn.reply(await standIn.next(), {
      type: "answer.problem",
      code: "malformed",
      message: "",
      field: "limit",
    });
    await assert.rejects(
      unreadable,
      (error: BillingRefused) => error instanceof BillingRefused && error.field === "limit",
    );
    await assert.rejects(client.balance("ada", {}, { timeoutMs: 100 }), BillingUnavailable);
  });

  test("canAfford without an answer throws, or says what its caller chose", async () => {
    const options = { timeoutMs: 100 };
    await assert.rejects(client.canAfford("ada", 5, options), BillingUnavailable);
    assert.equal(await client.canAfford("ada", 5, { ...options, onUnavailable: "allow" }), true);
    assert.equal(await client.canAfford("ada", 5, { ...options, onUnavailable: "deny" }), false);
  });
});

describe("close", () => {
  test("waits for what is pending, and takes nothing more", async () => {
    const result = deduct("drain-1");
    const message = await standIn.next();
    const closed = client.close();
    await assert.rejects(deduct("drain-2"), BillingUnavailable);
    standIn.apply(message);
    assert.equal((await result).status, "applied");
    await closed;
  });

  test("ends what stays without a reply, as unknown", async () => {
    const result = deduct("drain-3");
    await standIn.next();
    const refused = assert.rejects(result, BillingTimeout);
    await client.close({ timeoutMs: 50 });
    await refused;
  });

  test("ends as unsent what waited for its turn", async () => {
    const results = Array.from({ length: 6 }, (_, number) => deduct(`drain-${4 + number}`));
    await eventually(() => standIn.messages.length === 5);
    const ended = Promise.allSettled(results);
    await client.close({ timeoutMs: 50 });
    const names = (await ended).map((one) => one.status === "rejected" && (one.reason as Error).name);
    assert.deepEqual(names, [...Array<string>(5).fill("BillingTimeout"), "BillingUnavailable"]);
  });

  for (const [name, silent] of [
    ["", ""],
    [" with a broker that is silent", "client"],
  ] as const) {
    test(`lets the process end${name}`, async () => {
      const program = `
        import { BillingClient } from "@billing-worker/client";
        const client = new BillingClient({ url: process.argv[1], timeoutMs: 30_000 });
        await client.publish({ type: "usage.deduct", referenceId: "exit-1", userId: "ada", tokens: 1 });
        await client.notices(() => {}, { queue: "exit.notices" });
        process.stdout.write("ready");
        process.stdin.once("data", async () => { await client.close(); process.stdin.destroy(); });`;
      const patient = `${proxy.url}?heartbeat=600`; // no heartbeat ends it: the client does, or nothing
      const child = spawn(process.execPath, ["--input-type=module", "-e", program, patient], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      await firstOutput(child);
      if (silent) proxy.hold(silent);
      child.stdin.write("\n");
      const [code] = (await once(child, "exit")) as [number];
      assert.equal(code, 0);
    });
  }
});
