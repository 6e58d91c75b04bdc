// Subscriptions: a message is handled once, and given back where its handler failed.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";

import amqp from "amqplib";
import type { Channel, ChannelModel } from "amqplib";

import { BillingClient, BillingConfiguration } from "@billing-worker/client";
import type { Notice, Reply } from "@billing-worker/client";

import { Proxy } from "./proxy.js";
import { eventually, url } from "./support.js";

let model: ChannelModel;
let channel: Channel;
let proxy: Proxy;
let client: BillingClient;

before(async () => {
  model = await amqp.connect(url("BARE"));
  channel = await model.createChannel();
  await channel.assertExchange("billing.events", "topic");
  proxy = await Proxy.start(url("BARE"));
  client = new BillingClient({ url: proxy.url });
});

after(async () => {
  await client.close();
  await proxy.close();
  await model.close();
});

async function queueWith(...ids: string[]): Promise<string> {
  const queue = `replies-${randomUUID()}`;
  await channel.assertQueue(queue);
  for (const messageId of ids) send(queue, messageId);
  return queue;
}

function send(queue: string, messageId: string): void {
  channel.sendToQueue(queue, Buffer.from(JSON.stringify({ referenceId: messageId })), { messageId });
}

test("a handler gets the trace context of its message, and none for a malformed one", async () => {
  const queue = await queueWith();
  const traces: (string | undefined)[] = [];
  const subscription = await client.replies((_, { traceparent }) => void traces.push(traceparent), { queue });
  const own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  for (const traceparent of [own, "nonsense"])
    channel.sendToQueue(queue, Buffer.from("{}"), { headers: { traceparent } });
  await eventually(() => traces.length === 2);
  assert.deepEqual(new Set(traces), new Set([own, undefined]));
  await subscription.close();
});

test("copies of a reply are handled once, also while the first is being handled", async () => {
  const queue = await queueWith("a", "a", "b");
  const handled: (string | undefined)[] = [];
  let finish = (): void => {};
  const wait = new Promise<void>((resolve) => (finish = resolve));
  const handler = async (reply: Reply): Promise<void> => {
    handled.push(reply.referenceId);
    await wait;
  };
  const subscription = await client.replies(handler, { queue });
  await eventually(() => handled.length === 2);
  finish();
  send(queue, "a");
  send(queue, "c");
  await eventually(() => handled.length === 3);
  assert.deepEqual(handled, ["a", "b", "c"]);
  await subscription.close();
});

test("a reply whose handler failed comes again, and the error is told", async () => {
  const queue = await queueWith("a");
  const errors: string[] = [];
  let calls = 0;
  const handler = (): void => {
    calls += 1;
    if (calls === 1) throw new Error("not yet");
  };
  const subscription = await client.replies(handler, {
    queue,
    onError: (error) => errors.push(error.message),
  });
  await eventually(() => calls === 2);
  assert.deepEqual(errors, ["not yet"]);
  await subscription.close();
});

test("a reply is acknowledged after its handler, not before", async () => {
  const queue = await queueWith("a");
  let [isCalled, finish] = [false, (): void => {}];
  const wait = new Promise<void>((resolve) => (finish = resolve));
  const handler = (): Promise<void> => {
    isCalled = true;
    return wait;
  };
  const first = await client.replies(handler, { queue });
  await eventually(() => isCalled);
  proxy.refuses = true; // or the first one might be back before the other one is there
  proxy.cut(); // the handler still runs: the broker delivers again
  const handled: unknown[] = [];
  const other = new BillingClient({ url: url("BARE") });
  await other.replies((reply) => void handled.push(reply), { queue });
  await eventually(() => handled.length === 1);
  finish();
  proxy.refuses = false;
  await other.close();
  await first.close();
});

test("notices go to the app's own queue, and are consumed again after a lost connection", async () => {
  const handled: Notice[] = [];
  const queue = `notices-${randomUUID()}`;
  await client.notices((notice) => void handled.push(notice), { queue, types: ["balance.low"] });
  const publish = (id: string, type: string): boolean =>
    channel.publish("billing.events", type, Buffer.from(JSON.stringify({ id, type })), { messageId: id });
  publish("n-1", "credit.expiring");
  publish("n-2", "balance.low");
  await eventually(() => handled.length === 1);
  proxy.cut();
  publish("n-3", "balance.low");
  await eventually(() => handled.length === 2);
  assert.deepEqual(
    handled.map(({ id }) => id),
    ["n-2", "n-3"],
  );
  await channel.deleteQueue(queue);
});

test("close does not wait for ever for a handler that hangs", async () => {
  const hanging = new BillingClient({ url: url("BARE") });
  let isCalled = false;
  const handler = (): Promise<void> => {
    isCalled = true;
    return new Promise(() => {});
  };
  await hanging.replies(handler, { queue: await queueWith("a") });
  await eventually(() => isCalled);
  await hanging.close({ timeoutMs: 50 });
});

test("a missing queue is somebody's to declare", async () => {
  await assert.rejects(
    client.replies(() => {}, { queue: "not.there" }),
    BillingConfiguration,
  );
});
