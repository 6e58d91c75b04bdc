// Rule of new ids: the fake refuses what the worker does, with the same replies.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { FakeBillingClient } from "../src/index.js";
import type { Command, Reply } from "../src/index.js";

const SAMPLES = new URL("../../../../tests/contracts/malformed.json", import.meta.url);

interface Step {
  readonly message?: Command;
  readonly reply: Reply;
}

const steps = (JSON.parse(readFileSync(SAMPLES, "utf8")) as Step[]).filter(
  ({ message, reply }) => message !== undefined && reply.reason === "invalid_id",
);

for (const { message, reply } of steps) {
  test(`an id is refused as the worker does: ${reply.field}`, async () => {
    const fake = new FakeBillingClient();
    const replies: Reply[] = [];
    await fake.replies(async (one) => void replies.push(one));
    await fake.publish(message!);
    assert.deepEqual(JSON.parse(JSON.stringify(replies)), [reply]);
  });
}

test("there are samples of ids that are refused", () => assert.ok(steps.length > 2));
