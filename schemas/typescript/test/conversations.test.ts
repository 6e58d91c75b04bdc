// The fake gives the worker's own replies: the conversations of tests/contracts, which the worker is held to.

import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import { FakeBillingClient } from "@billing-worker/client";
import type { Answer, Command, Notice, Query, Reply } from "@billing-worker/client";

interface Step {
  readonly at?: string;
  readonly message?: Command;
  readonly reply?: Reply;
  readonly notices?: readonly Notice[];
  readonly query?: Query;
  readonly answer?: Answer;
}

/** The conversations: those of the contract, or others that were made with a worker. */
const FOLDER = process.env.BILLING_TEST_CONVERSATIONS
  ? pathToFileURL(`${process.env.BILLING_TEST_CONVERSATIONS}/`)
  : new URL("../../../../tests/contracts/", import.meta.url);
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
  "openedTier",
  "tier",
  "expiresAt",
  "periodStart",
  "periodEnd",
  "meter",
  "quantity",
  "freeQuantity",
  "chargedQuantity",
  "amountMinor",
  "countedMinor",
  "listMinor",
  "paymentReferenceId",
  "uncollected",
  "previousTier",
  "effectiveAt",
] as const;

/** What the fake refuses with an error: bad bodies, which the types forbid. */
const NOT_MODELLED = new Set(["malformed.json"]);
const files = (await readdir(FOLDER)).filter((name) => name.endsWith(".json") && !NOT_MODELLED.has(name));

for (const file of files) {
  test(`the fake replies as the worker does: ${file}`, async () => {
    const steps = JSON.parse(await readFile(new URL(file, FOLDER), "utf8")) as Step[];
    const fake = new FakeBillingClient({ now: new Date("2026-11-22T10:15:00Z") });
    const imported = new Set<string>(); // the fake knows no imports, and nothing of these users
    const noticed: Notice[] = [];
    const types: Notice["type"][] = ["payment.rejected"]; // those of balances are tested with the worker
    await fake.notices((notice) => void noticed.push(notice), { queue: "notices", types });
    for (const { at, message, reply, notices, query, answer } of steps) {
      if (at !== undefined) fake.setTime(new Date(at));
      if (query !== undefined && answer !== undefined && isModelled(query, answer)) {
        assert.deepEqual(shared(await fake.ask(query)), shared(answer), `${file}: ${query.type}`);
      }
      if (message === undefined || reply === undefined || hasMalformedItems(reply)) continue;
      if (message.type === "account.import") imported.add(message.userId);
      if (imported.has(message.userId ?? "")) continue;
      assert.deepEqual(
        compared(await fake.request(message)),
        compared(reply),
        `${file}: ${message.referenceId}`,
      );
      const expected = notices?.filter(({ type }) => types.includes(type)) ?? [];
      assert.deepEqual(told(noticed.splice(0)), told(expected), `${file}: ${message.referenceId}`);
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

/** The fake says loudly which questions it does not answer; it attributes what was due to no command. */
function isModelled(query: Query, answer: Answer): boolean {
  const isOfNow = !("at" in query) && !("groupBy" in query) && !("status" in query);
  return isOfNow && !JSON.stringify(answer).includes('"dueAt"');
}

/** Notices without their ids, which are the worker's own. */
function told(notices: readonly Notice[]): unknown {
  return shared(notices.map((notice) => ({ ...notice, id: undefined })));
}

/** Answers or notices without what is the worker's own: its numbers, its cursors, its sentences. */
function shared(answer: unknown): unknown {
  const own = ["transactionId", "nextCursor", "hash", "message", "reply"];
  return JSON.parse(
    JSON.stringify(answer, (name, value: unknown) => (own.includes(name) ? undefined : value)),
  );
}
