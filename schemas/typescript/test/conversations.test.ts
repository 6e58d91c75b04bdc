// The fake gives the worker's own replies: the conversations of tests/contracts, which the worker is held to.

import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import { FakeBillingClient } from "@billing-worker/client";
import type { Answer, Catalog, Command, Notice, Query, Reply } from "@billing-worker/client";

interface Step {
  readonly catalog?: Catalog;
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
/** Fields of a reply that are the worker's own: its numbers and sentences, and what a conflict is about. */
const OWN_OF_REPLIES = ["transactionId", "message"];
const OWN_OF_ANSWERS = [...OWN_OF_REPLIES, "nextCursor", "hash", "reply"];
const OWN_OF_CONFLICTS = [...OWN_OF_REPLIES, "field", "expected", "received"];

/** What the fake refuses with an error: bad bodies, which the types forbid. */
const NOT_MODELLED = new Set(["malformed.json"]);
const files = (await readdir(FOLDER)).filter((name) => name.endsWith(".json") && !NOT_MODELLED.has(name));

for (const file of files) {
  test(`the fake replies as the worker does: ${file}`, async () => {
    const steps = JSON.parse(await readFile(new URL(file, FOLDER), "utf8")) as Step[];
    const catalog = steps[0]?.catalog ?? {};
    const fake = new FakeBillingClient({ now: new Date("2026-11-22T10:15:00Z"), catalog });
    const noticed: Notice[] = [];
    await fake.notices((notice) => void noticed.push(notice), { queue: "notices" });
    for (const { at, message, reply, notices = [], query, answer } of steps) {
      if (at !== undefined) fake.setTime(new Date(at));
      if (query !== undefined && answer !== undefined && !("at" in query)) {
        const asked = `${file}: ${JSON.stringify(query)}`;
        assert.deepEqual(sharedAnswer(await fake.ask(query)), sharedAnswer(answer), asked);
      }
      if (message === undefined || reply === undefined || isMalformed(reply)) continue;
      const about = `${file}: ${JSON.stringify(message)} at ${fake.now.toISOString()}`;
      assert.deepEqual(shared(await fake.request(message)), shared(reply), about);
      assert.deepEqual(without(["id"], noticed.splice(0)), without(["id"], notices), about);
    }
  });
}

/** The types of commands forbid these; the fake checks no more than that amounts are not negative. */
function isMalformed({ status, failed = 0 }: Reply): boolean {
  return status === "failed" || failed > 0;
}

/** Return what of a reply, and of its items, is not the worker's own. */
function shared({ items, ...reply }: Reply): unknown {
  const own = reply.code === "reference_conflict" ? OWN_OF_CONFLICTS : OWN_OF_REPLIES;
  return { ...(without(own, reply) as object), items: items?.map(shared) };
}

function sharedAnswer(answer: Answer): unknown {
  const reply = "reply" in answer && answer.reply != null ? shared(answer.reply) : undefined;
  return { ...(without(OWN_OF_ANSWERS, answer) as object), reply };
}

/** Return an object, and those in it, without the fields of these names. */
function without(names: readonly string[], value: unknown): unknown {
  const text = JSON.stringify(value, (name, inner: unknown) => (names.includes(name) ? undefined : inner));
  return JSON.parse(text);
}
