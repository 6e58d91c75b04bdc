// Options of the client: a wrong one is refused at once, without a broker.

import assert from "node:assert/strict";
import { test } from "node:test";

import { BillingClient, BillingConfiguration } from "@billing-worker/client";

const NOWHERE = "amqp://127.0.0.1:1";
const COUNTS = [0, -1, 1.5, NaN, Infinity, 2 ** 31];

function refusal(option: string, value: unknown) {
  return (error: unknown): boolean => {
    assert.ok(error instanceof BillingConfiguration);
    assert.match(error.message, new RegExp(`^${option}: ${value} is no whole number from [01] to \\d+$`));
    return true;
  };
}

for (const value of COUNTS) {
  test(`${value} is no number of pending messages, of milliseconds, nor of messages at a time`, async () => {
    assert.throws(() => new BillingClient({ url: NOWHERE, maxPending: value }), refusal("maxPending", value));
    assert.throws(() => new BillingClient({ url: NOWHERE, timeoutMs: value }), refusal("timeoutMs", value));
    const client = new BillingClient({ url: NOWHERE });
    await assert.rejects(client.stats({ timeoutMs: value }), refusal("timeoutMs", value));
    await assert.rejects(
      client.replies(() => {}, { concurrency: value }),
      refusal("concurrency", value),
    );
    if (value !== 0) await assert.rejects(client.close({ timeoutMs: value }), refusal("timeoutMs", value));
    await client.close();
  });
}

for (const appId of ["", "x".repeat(201), "é".repeat(101)]) {
  test(`a program's name of ${Buffer.byteLength(appId)} bytes is refused`, () => {
    const expected = { name: "BillingConfiguration", message: "appId: give a name of 1 to 200 bytes" };
    assert.throws(() => new BillingClient({ url: NOWHERE, appId }), expected);
  });
}
