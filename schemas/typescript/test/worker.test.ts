// The client with a real worker: what an app that is killed leaves behind, and what the worker sends by itself.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { after, before, test } from "node:test";

import { BillingClient } from "@billing-worker/client";
import type { Notice, Reply } from "@billing-worker/client";

import { PATIENCE_MS, eventually, firstOutput, url } from "./support.js";

let client: BillingClient;
before(() => (client = new BillingClient({ url: url("WORKER"), timeoutMs: PATIENCE_MS })));
after(() => client.close());

async function user(): Promise<string> {
  const userId = `user-${randomUUID()}`;
  await client.openAccount({ referenceId: `open-${userId}`, userId, tier: "free" });
  return userId;
}

test("an app that is killed with two hundred pending requests charges nothing twice, and learns every outcome", async () => {
  const userId = await user();
  const program = `
    import { BillingClient } from "@billing-worker/client";
    const [url, userId] = process.argv.slice(1);
    const client = new BillingClient({ url, timeoutMs: 30_000 });
    for (let number = 0; number < 200; number += 1) {
      client.deduct({ referenceId: userId + "/" + number, userId, tokens: 1 }).then(() => process.stdout.write("."));
    }`;
  const app = spawn(process.execPath, ["--input-type=module", "-e", program, url("WORKER"), userId], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await firstOutput(app); // the first reply is there, and the others are on their way
  app.kill("SIGKILL");
  await once(app, "exit");

  const references = Array.from({ length: 200 }, (_, number) => `${userId}/${number}`);
  const known = await Promise.all(references.map((reference) => client.operation(reference)));
  const again = await Promise.all(
    references.map((referenceId) => client.deduct({ referenceId, userId, tokens: 1 })),
  );
  for (const [place, result] of again.entries()) {
    assert.equal(result.status, "applied");
    if (known[place]?.isKnown) assert.equal(result.duplicate, true);
  }
  assert.ok(again.some((result) => result.duplicate));
  assert.equal((await client.balance(userId))?.balance, 9_800);
  assert.ok((await Promise.all(references.map((one) => client.operation(one)))).every((one) => one.isKnown));
});

test("the rights of a producer suffice for commands and queries", async () => {
  const userId = await user();
  const producer = new BillingClient({ url: url("PRODUCER"), timeoutMs: PATIENCE_MS });
  assert.equal((await producer.deduct({ referenceId: randomUUID(), userId, tokens: 5 })).balanceAfter, 9_995);
  await producer.publish({ type: "usage.deduct", referenceId: randomUUID(), userId, tokens: 5 });
  assert.equal(await producer.canAfford(userId, 1), true);
  await producer.close();
});

test("usage by the bulk lane is applied, and anything else is refused there", async () => {
  const userId = await user();
  const [lane, referenceId] = [{ lane: "bulk" } as const, randomUUID()];
  assert.equal((await client.deduct({ referenceId, userId, tokens: 5 }, lane)).balanceAfter, 9_995);
  const bonus = client.bonus({ referenceId: randomUUID(), userId, tokens: 5 }, lane);
  await assert.rejects(bonus, { name: "BillingRefused", reason: "wrong_lane" });
});

test("replies to published commands come to their subscriber", async () => {
  const [userId, referenceId] = [await user(), randomUUID()];
  const replies: Reply[] = [];
  const subscription = await client.replies((reply) => void replies.push(reply));
  await client.publish({ type: "usage.deduct", referenceId, userId, tokens: 20_000 });
  const reply = await eventually(() => replies.find((one) => one.referenceId === referenceId));
  assert.deepEqual([reply.status, reply.code, reply.shortfall], ["rejected", "insufficient_balance", 10_000]);
  await subscription.close();
});

test("a balance that gets low is noticed", async () => {
  const userId = await user();
  const notices: Notice[] = [];
  const queue = `app-${randomUUID()}`;
  const subscription = await client.notices((notice) => void notices.push(notice), {
    queue,
    types: ["balance.low"],
  });
  await client.deduct({ referenceId: randomUUID(), userId, tokens: 9_500 });
  const notice = await eventually(() => notices.find((one) => one.userId === userId));
  assert.deepEqual([notice.type, notice.available, notice.mark], ["balance.low", 500, 1_000]);
  await subscription.close();
});

test("a query about a range that is too long is refused with its field", async () => {
  const [days, cursor, zone] = [{ days: 1_000_000 }, { cursor: "forged" }, { timezone: "Mars/Olympus" }];
  const userId = await user();
  for (const asked of [
    client.usage(userId, days),
    client.history(userId, cursor),
    client.usage(userId, zone),
  ]) {
    await assert.rejects(asked, { name: "BillingRefused" });
  }
});
