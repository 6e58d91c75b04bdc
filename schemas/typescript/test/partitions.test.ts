// Partitions: routing keys by user, and batches of many users in parts with one result.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";

import amqp from "amqplib";
import type { Channel, ChannelModel, ConsumeMessage } from "amqplib";

import { BillingClient, BillingConfiguration } from "@billing-worker/client";
import type { Command, Reply } from "@billing-worker/client";

import { joined, partsOf, routingKey, slotOf } from "../src/partitions.js";
import { PATIENCE_MS, bodyOf, eventually, url } from "./support.js";

type Batch = Extract<Command, { type: "usage.batch" }>;

/** Users and their slots in the contract's page, which every language is tested with. */
const PAGE = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
const VECTORS = [...PAGE.matchAll(/^\| `(".+?")` \| (\d+) \|$/gm)].map(
  ([, userId, slot]) => [JSON.parse(userId as string) as string, Number(slot)] as const,
);

const USERS = Array.from({ length: 12 }, (_, n) => `u-${n}`);

function batchOf(users: readonly string[], referenceId = "b-1"): Batch {
  const items = users.map((userId, n) => ({
    type: "usage.deduct" as const,
    referenceId: `${referenceId}/${n}`,
    userId,
    tokens: 1,
  }));
  return { type: "usage.batch", referenceId, items: items as unknown as Batch["items"] };
}

/** Return the reply of a worker that applies all items of a batch. */
function applied(batch: Batch): Reply {
  const head = { schemaVersion: 1, status: "applied" as const, message: "", duplicate: false };
  const items = batch.items.map((item) => ({
    ...head,
    code: "tokens_deducted",
    referenceId: item.referenceId,
  }));
  return { ...head, code: "batch_processed", referenceId: batch.referenceId, items };
}

describe("a slot", () => {
  test("has its vectors in the contract", () => assert.ok(VECTORS.length >= 10));
  for (const [userId, slot] of VECTORS) {
    test(`of ${JSON.stringify(userId)} is ${slot}, as in every language`, () => {
      assert.equal(slotOf(userId), slot);
    });
  }
});

describe("a routing key", () => {
  const deduct = { type: "usage.deduct" as const, referenceId: "d", userId: "ada", tokens: 1 };

  test("is the type where queues have no partitions", () => {
    assert.equal(routingKey(deduct, 0), "usage.deduct");
  });

  test("ends in the partition of its user", () => {
    assert.equal(routingKey(deduct, 64), `usage.deduct.${String(slotOf("ada")).padStart(2, "0")}`);
    assert.equal(routingKey(deduct, 8), `usage.deduct.0${slotOf("ada") >> 3}`);
  });

  test("has no partition where there is no user, or users of several", () => {
    const refund = {
      type: "payment.refunded",
      referenceId: "r",
      originalReferenceId: "p",
      amountMinor: 1,
    } as Command;
    assert.equal(routingKey(refund, 16), "payment.refunded");
    assert.equal(routingKey(batchOf(USERS), 16), "usage.batch");
  });
});

describe("a batch", () => {
  test("has the same parts whenever it is split, each of one partition, with its items in order", () => {
    const whole = batchOf(USERS);
    const parts = partsOf(whole, 8);
    assert.deepEqual(parts, partsOf(whole, 8));
    for (const { command, places } of parts) {
      const key = routingKey(command, 8);
      assert.match(key, /^usage\.batch\.0\d$/);
      assert.equal(command.referenceId, `b-1:${key.slice(-2)}`);
      assert.deepEqual(
        places.map((place) => whole.items[place]),
        [...(command as Batch).items],
      );
    }
    assert.deepEqual(
      parts.flatMap(({ places }) => places).sort((a, b) => a - b),
      [...USERS.keys()],
    );
  });

  test("stays whole without partitions, in one partition, and where its reference has no room", () => {
    for (const [command, partitions] of [
      [batchOf(USERS), 0],
      [batchOf(["ada", "ada"]), 64],
      [batchOf(USERS, "b".repeat(198)), 16],
      [batchOf([]), 16],
    ] as const) {
      assert.deepEqual(partsOf(command, partitions), [{ command, places: [...command.items.keys()] }]);
    }
  });

  test("has one reply to its parts, in which a part that failed fails for each of its items", () => {
    const whole = batchOf(USERS);
    const parts = partsOf(whole, 8);
    const failed: Reply = {
      schemaVersion: 1,
      status: "failed",
      code: "unprocessable",
      message: "",
      duplicate: false,
    };
    const replies = parts.map(({ command }, n) => (n === 0 ? failed : applied(command as Batch)));
    const reply = joined(whole, parts, replies);
    assert.deepEqual(
      reply.items?.map((item) => item.referenceId),
      whole.items.map((item) => item.referenceId),
    );
    assert.equal(reply.failed, parts[0]?.places.length);
    assert.equal((reply.applied ?? 0) + (reply.failed ?? 0), USERS.length);
    assert.equal(reply.status, "applied");
    assert.equal(
      joined(
        whole,
        parts,
        parts.map(() => failed),
      ).status,
      "failed",
    );
  });
});

test("a number that would not serve whole slots is refused", () => {
  assert.throws(() => new BillingClient({ url: "amqp://a:b@host", partitions: 12 }), BillingConfiguration);
});

describe("a client with partitions", () => {
  let model: ChannelModel;
  let channel: Channel;
  let client: BillingClient;
  const seen: ConsumeMessage[] = [];

  before(async () => {
    // Nobody else takes keys with a partition here: this consumer stands in for the worker of all partitions.
    model = await amqp.connect(url("WORKER"));
    channel = await model.createChannel();
    const { queue } = await channel.assertQueue("", { exclusive: true });
    await channel.bindQueue(queue, "billing", "usage.*.*");
    const apply = (message: ConsumeMessage | null): void => {
      if (message === null) return;
      seen.push(message);
      const body = bodyOf(message) as unknown as Batch;
      const reply =
        body.type === "usage.batch" ? applied(body) : { ...applied(batchOf([])), items: undefined };
      const { replyTo, correlationId } = message.properties as { replyTo?: string; correlationId: string };
      if (replyTo) channel.sendToQueue(replyTo, Buffer.from(JSON.stringify(reply)), { correlationId });
    };
    await channel.consume(queue, apply, { noAck: true });
    client = new BillingClient({ url: url("WORKER"), partitions: 16, timeoutMs: PATIENCE_MS });
  });

  after(async () => {
    await client.close({ timeoutMs: 1 });
    await model.close();
  });

  test("sends a command to the partition of its user", async () => {
    await client.deduct({ referenceId: randomUUID(), userId: "ada", tokens: 1 });
    const { fields, properties } = seen.pop() as ConsumeMessage;
    assert.equal(fields.routingKey, `usage.deduct.${String(slotOf("ada") >> 2).padStart(2, "0")}`);
    assert.equal(properties.type, "usage.deduct");
  });

  test("sends no part of a batch in which one number can't be sent, and says which", async () => {
    const whole = batchOf(USERS, randomUUID());
    const [last] = partsOf(whole, 16).at(-1)?.places as [number];
    const items = whole.items.map((item, n) => (n === last ? { ...item, tokens: 1.5 } : item));
    const odd = { ...whole, items: items as unknown as Batch["items"] };
    await assert.rejects(client.request(odd), { name: "BillingRefused", field: `items.${last}.tokens` });
    await client.deduct({ referenceId: "after", userId: "ada", tokens: 1 });
    assert.deepEqual(
      seen.splice(0).map((message) => bodyOf(message).referenceId),
      ["after"],
    );
  });

  test("sends a batch of many users in parts, and has one result", async () => {
    const whole = batchOf(USERS, randomUUID());
    const { type: _, ...fields } = whole;
    const result = await client.batch(fields);
    const keys = seen.splice(0).map((message) => message.fields.routingKey);
    assert.deepEqual([...new Set(keys)].length, partsOf(whole, 16).length);
    assert.equal(result.referenceId, whole.referenceId);
    assert.deepEqual(
      result.items?.map((item) => item.referenceId),
      whole.items.map((item) => item.referenceId),
    );
    await client.publish(whole);
    await eventually(() => seen.length === partsOf(whole, 16).length);
  });
});
