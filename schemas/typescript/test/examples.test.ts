// The examples of the README, with a real worker.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";

import { BillingClient } from "@billing-worker/client";

import { onGatewayEvent } from "../examples/bridge-payments.js";
import { summaries } from "../examples/charge-in-a-request.js";
import { meter } from "../examples/meter-an-upload-pipeline.js";
import { writeToUsers } from "../examples/react-to-notices.js";
import { balances } from "../examples/show-a-balance.js";
import { PATIENCE_MS, eventually, url } from "./support.js";

let client: BillingClient;
before(() => (client = new BillingClient({ url: url("WORKER"), timeoutMs: PATIENCE_MS })));
after(() => client.close());

async function user(tier = "free"): Promise<string> {
  const userId = `user-${randomUUID()}`;
  await client.openAccount({ referenceId: `open-${userId}`, userId, tier });
  return userId;
}

/** Serve while `use` runs with the server's address. */
async function served(server: Server, use: (address: string) => Promise<void>): Promise<void> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("charge in a request: once for each key, and 402 without tokens", async () => {
  const userId = await user();
  await served(
    summaries(client, async () => ({ text: "short", tokens: 4_200 })),
    async (address) => {
      const post = async (key: string): Promise<number> => {
        const headers = { "x-user": userId, "idempotency-key": key };
        return (await fetch(address, { method: "POST", headers })).status;
      };
      const [key, other, third] = [randomUUID(), randomUUID(), randomUUID()];
      assert.deepEqual(
        [await post(key), await post(key), await post(other), await post(third)],
        [200, 200, 200, 402],
      );
    },
  );
  assert.equal((await client.balance(userId))?.available, 1_600);
});

test("meter an upload pipeline: free bytes first, and who can't pay is named", async () => {
  const [rich, poor] = [await user("basic"), await user()];
  const uploads = [
    { id: randomUUID(), userId: rich, bytes: 5_000_000, pages: 12 },
    { id: randomUUID(), userId: poor, bytes: 5_000_000, pages: 200 },
  ];
  assert.deepEqual(await meter(client, uploads), [uploads[1]!.id]);
  assert.deepEqual(await meter(client, uploads), [uploads[1]!.id]);
  assert.equal((await client.balance(rich))?.balance, 100_000 - 12 * 120);
});

test("bridge payments: the refund may come before its payment, and each may come twice", async () => {
  const userId = await user();
  const [paymentId, refundId] = [randomUUID(), randomUUID()];
  const money = { gateway: "stripe", paymentId, amountMinor: 499, currency: "USD" };
  const paid = { ...money, type: "payment.paid", userId, packageId: "starter" } as const;
  const refunded = { ...money, type: "payment.refunded", refundId } as const;
  for (const event of [refunded, paid, paid, refunded]) {
    const result = await onGatewayEvent(client, event);
    assert.equal(result?.status, "applied");
    assert.equal(result.referenceId, `stripe:${event === paid ? paymentId : refundId}`);
  }
  assert.equal((await client.balance(userId))?.balance, 10_000);
  assert.equal(await onGatewayEvent(client, { ...paid, paymentId: randomUUID(), currency: "dollars" }), null);
});

test("show a balance: 200, 304 until something moves, 404 for an unknown account", async () => {
  const userId = await user();
  await served(balances(client), async (address) => {
    const get = (headers: Record<string, string>): Promise<Response> =>
      fetch(address, { headers: { "x-user": userId, ...headers } });
    const first = await get({});
    const { nextCreditAt, ...shown } = (await first.json()) as Record<string, unknown>;
    assert.deepEqual(shown, { available: 10_000, availableFormatted: "10.0K" });
    assert.ok(nextCreditAt);
    const etag = first.headers.get("etag")!;
    assert.equal((await get({ "if-none-match": etag })).status, 304);
    await client.deduct({ referenceId: randomUUID(), userId, tokens: 1 });
    assert.equal((await get({ "if-none-match": etag })).status, 200);
    assert.equal((await get({ "x-user": "nobody" })).status, 404);
  });
});

test("react to notices: a user whose tokens run low gets a mail", async () => {
  const userId = await user();
  const sent: string[] = [];
  const mailer = { send: async (to: string, text: string) => void sent.push(`${to}: ${text}`) };
  const subscription = await writeToUsers(client, mailer, `mails-${randomUUID()}`);
  await client.deduct({ referenceId: randomUUID(), userId, tokens: 9_100 });
  await eventually(() => sent.includes(`${userId}: 900 tokens are left.`));
  await subscription.close();
});
