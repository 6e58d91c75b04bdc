// The fake gives the worker's own replies: the conversations of tests/contracts, which the worker is held to.

import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";

import { FakeBillingClient } from "@billing-worker/client";
import type { Command, Reply } from "@billing-worker/client";

interface Step {
  readonly at?: string;
  readonly message?: Command;
  readonly reply?: Reply;
}

const FOLDER = new URL("../../../../tests/contracts/", import.meta.url);
/** Fields that the fake must have as the worker has them. */
const COMPARED = [
  "status",
  "code",
  "referenceId",
  "userId",
  "attempt",
  "duplicate",
  "unit",
  "amount",
  "balanceBefore",
  "balanceAfter",
  "required",
  "available",
  "shortfall",
  "used",
  "limit",
  "packageId",
  "baseTokens",
  "bonusTokens",
  "originalReferenceId",
  "state",
  "held",
  "debt",
  "expired",
  "released",
  "tier",
  "expiresAt",
  "periodStart",
  "periodEnd",
  "meter",
  "quantity",
  "freeQuantity",
  "chargedQuantity",
  "amountMinor",
] as const;

const files = (await readdir(FOLDER)).filter((name) => name.endsWith(".json") && name !== "malformed.json");

for (const file of files) {
  test(`the fake replies as the worker does: ${file}`, async () => {
    const steps = JSON.parse(await readFile(new URL(file, FOLDER), "utf8")) as Step[];
    const fake = new FakeBillingClient({ now: new Date("2026-11-22T10:15:00Z") });
    for (const { at, message, reply } of steps) {
      if (at !== undefined) fake.setTime(new Date(at));
      if (message === undefined || reply === undefined || hasMalformedItems(reply)) continue;
      assert.deepEqual(
        compared(await fake.request(message)),
        compared(reply),
        `${file}: ${message.referenceId}`,
      );
    }
  });
}

/** The types of commands forbid these; the fake checks no more than that amounts are not negative. */
function hasMalformedItems(reply: Reply): boolean {
  return (reply.failed ?? 0) > 0;
}

function compared(reply: Reply): object {
  const fields = COMPARED.map((name) => [name, reply[name]]).filter(([, value]) => value !== undefined);
  return { ...Object.fromEntries(fields), items: reply.items?.map(compared) };
}
