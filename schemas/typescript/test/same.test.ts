// One suite for the client with a real worker and for the fake: what an app sees is the same.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";

import {
  BillingClient,
  BillingRefused,
  FakeBillingClient,
  TokenService,
  TokenServiceError,
} from "@billing-worker/client";
import type { Billing, Notice, Result } from "@billing-worker/client";

import { PATIENCE_MS, url } from "./support.js";

/** Each test has a user of its own, and most of it waits. */
const TOGETHER = { concurrency: true };

const MAKERS: Record<string, () => Billing> = {
  "the worker": () => new BillingClient({ url: url("WORKER"), timeoutMs: PATIENCE_MS }),
  "the fake": () => new FakeBillingClient({ now: new Date() }),
};

for (const [name, make] of Object.entries(MAKERS)) {
  describe(`with ${name}`, TOGETHER, () => {
    let billing: Billing;
    let service: TokenService;
    before(() => {
      billing = make();
      service = new TokenService(billing);
    });
    after(() => billing.close());

    async function user(tier = "free"): Promise<string> {
      const userId = `user-${randomUUID()}`;
      applied(await billing.openAccount({ referenceId: `open-${userId}`, userId, tier }));
      return userId;
    }

    describe("TokenService", TOGETHER, () => {
      test("getBalance has the account, its subscription and formatted amounts", async () => {
        const userId = await user("basic");
        const { subscription, ...balance } = await service.getBalance(userId);
        assert.deepEqual(balance, {
          userId,
          currentBalance: 100_000,
          totalEarned: 100_000,
          totalUsed: 0,
          totalPurchased: 0,
          freeUploadUsed: 0,
          freeUploadRemaining: 1_073_741_824,
          currentBalanceFormatted: "100.0K",
          totalEarnedFormatted: "100.0K",
          totalUsedFormatted: "0",
          totalPurchasedFormatted: "0",
          monthlyAllocation: 100_000,
          monthlyAllocationFormatted: "100.0K",
        });
        assert.equal(subscription.tier, "basic");
        assert.equal(subscription.isActive, true);
      });

      test("deductTokens takes tokens once for each reference", async () => {
        const userId = await user();
        const params = {
          userId,
          amount: 1_500,
          description: "a page",
          referenceId: randomUUID(),
          referenceType: "ocr",
        };
        assert.equal((await service.deductTokens(params)).currentBalance, 8_500);
        assert.equal((await service.deductTokens(params)).currentBalance, 8_500);
        assert.equal((await service.deductTokens({ userId, amount: 500, description: "" })).totalUsed, 2_000);
      });

      test("deductTokens with a rejected reference is judged anew after a top-up", async () => {
        const userId = await user();
        const params = { userId, amount: 12_000, description: "", referenceId: randomUUID() };
        await assert.rejects(
          service.deductTokens(params),
          oldText(/^Insufficient token balance\. Required: 12\.0K, Available: 10\.0K$/),
        );
        await service.addBonusTokens(userId, 5_000, "sorry");
        assert.equal((await service.deductTokens(params)).currentBalance, 3_000);
      });

      test("errors have the old texts", async () => {
        const userId = await user();
        const purchase = { userId, packageIndex: 99, paymentIntentId: randomUUID() };
        await assert.rejects(service.getBalance("nobody"), oldText(/^Token balance not found$/));
        await assert.rejects(
          service.deductTokens({ userId: "nobody", amount: 1, description: "" }),
          oldText(/^Token balance not found$/),
        );
        await assert.rejects(service.purchaseTokens(purchase), oldText(/^Invalid token package$/));
        await assert.rejects(
          service.trackFreeUploadUsage(userId, 2 ** 40),
          oldText(/^Free upload limit exceeded\. Required: 1099\.6B, Available: 104\.8M$/),
        );
      });

      test("purchaseTokens credits a package once for each payment, at the catalog's price", async () => {
        const userId = await user();
        const params = { userId, packageIndex: 1, paymentIntentId: randomUUID() };
        const bought = await service.purchaseTokens(params);
        assert.equal(bought.currentBalance, 285_000);
        assert.equal(bought.totalPurchased, 250_000);
        assert.deepEqual(await service.purchaseTokens(params), bought);
      });

      test("refundTokens gives back what a usage took, and no more", async () => {
        const userId = await user();
        const referenceId = randomUUID();
        await service.deductTokens({ userId, amount: 1_000, description: "", referenceId });
        const refund = {
          userId,
          amount: 600,
          reason: "failed",
          referenceId,
          idempotencyKey: randomUUID(),
        };
        assert.equal((await service.refundTokens(refund)).currentBalance, 9_600);
        assert.equal((await service.refundTokens(refund)).currentBalance, 9_600);
        await assert.rejects(
          service.refundTokens({ ...refund, idempotencyKey: randomUUID() }),
          (error: TokenServiceError) => error.code === "refund_exceeds_original",
        );
      });

      test("addBonusTokens gives tokens once for each key", async () => {
        const [userId, key] = [await user(), randomUUID()];
        assert.equal((await service.addBonusTokens(userId, 250, "welcome", key)).currentBalance, 10_250);
        assert.equal((await service.addBonusTokens(userId, 250, "welcome", key)).currentBalance, 10_250);
      });

      test("trackFreeUploadUsage counts bytes once for each key", async () => {
        const [userId, key] = [await user(), randomUUID()];
        await service.trackFreeUploadUsage(userId, 1_000_000, key);
        const { freeUploadUsed, freeUploadRemaining } = await service.trackFreeUploadUsage(
          userId,
          1_000_000,
          key,
        );
        assert.deepEqual([freeUploadUsed, freeUploadRemaining], [1_000_000, 103_857_600]);
      });

      test("canAfford is exact, and false for an unknown account", async () => {
        const userId = await user();
        assert.deepEqual(
          await Promise.all([10_000, 10_001].map((tokens) => service.canAfford(userId, tokens))),
          [true, false],
        );
        assert.equal(await service.canAfford("nobody", 1), false);
      });

      test("getTransactionHistory pages, newest first", async () => {
        const userId = await user();
        for (const amount of [1, 2, 3]) {
          await service.deductTokens({
            userId,
            amount,
            description: `job ${amount}`,
            referenceType: "job",
          });
        }
        const page = await service.getTransactionHistory(userId, 2, 1);
        assert.deepEqual(
          { ...page, transactions: page.transactions.length },
          { transactions: 2, total: 4, limit: 2, offset: 1, hasMore: true },
        );
        const [{ id, referenceId, createdAt, ...newest }] = page.transactions as [
          (typeof page.transactions)[0],
        ];
        assert.ok(id && referenceId && createdAt instanceof Date);
        assert.deepEqual(newest, {
          type: "usage.deduct",
          amount: -2,
          balanceBefore: 9_999,
          balanceAfter: 9_997,
          description: "job 2",
          referenceType: "job",
          metadata: null,
        });
        const nobody = await service.getTransactionHistory("nobody");
        assert.deepEqual(nobody, {
          transactions: [],
          total: 0,
          limit: 50,
          offset: 0,
          hasMore: false,
        });
      });

      test("getUsageAnalytics sums by day and by type", async () => {
        const userId = await user();
        await service.deductTokens({ userId, amount: 300, description: "" });
        applied(await billing.record({ referenceId: randomUUID(), userId, meter: "ocr", quantity: 5 }));
        const { period, usage, dailyUsage, usageByType } = await service.getUsageAnalytics(userId, 3);
        assert.equal(period.days, 3);
        assert.equal(period.endDate.getTime() - period.startDate.getTime(), 2 * 86_400_000);
        assert.deepEqual(usage, { total: 900, averageDaily: 300, projectedMonthly: 9_000 });
        assert.deepEqual(
          dailyUsage.map(({ tokens }) => tokens),
          [0, 0, 900],
        );
        const byTokens = [...usageByType].sort((one, other) => other.tokens - one.tokens);
        assert.deepEqual(
          byTokens.map(({ type, percentage }) => [type, percentage]),
          [
            ["usage.record", 66.67],
            ["usage.deduct", 33.33],
          ],
        );
        const nobody = await service.getUsageAnalytics("nobody", 3);
        assert.deepEqual(
          { ...nobody, period: nobody.period.days },
          {
            period: 3,
            usage: { total: 0, averageDaily: 0, projectedMonthly: 0 },
            dailyUsage: dailyUsage.map(({ date }) => ({ date, tokens: 0 })),
            usageByType: [],
          },
        );
      });

      test("getGlobalStats counts a new account", async () => {
        const earlier = await service.getGlobalStats();
        await user();
        const stats = await service.getGlobalStats();
        assert.ok(stats.totalBalances > earlier.totalBalances);
        assert.deepEqual(Object.keys(stats).sort(), [
          "totalBalances",
          "totalTokensEarned",
          "totalTokensInCirculation",
          "totalTokensPurchased",
          "totalTokensUsed",
        ]);
      });
    });

    test("a hold is captured once, and its rest is available again", async () => {
      const [userId, hold] = [await user(), randomUUID()];
      applied(await billing.reserve({ referenceId: hold, userId, tokens: 4_000, ttlSeconds: 300 }));
      assert.deepEqual(
        (({ balance, held, available }) => ({ balance, held, available }))((await billing.balance(userId))!),
        {
          balance: 10_000,
          held: 4_000,
          available: 6_000,
        },
      );
      const extended = await billing.extend({
        referenceId: randomUUID(),
        userId,
        originalReferenceId: hold,
        ttlSeconds: 600,
      });
      assert.equal(applied(extended).code, "hold_extended");
      const settle = { userId, originalReferenceId: hold, tokens: 2_750 };
      assert.equal(applied(await billing.settle({ referenceId: randomUUID(), ...settle })).released, 1_250);
      const again = await billing.settle({ referenceId: randomUUID(), ...settle });
      assert.deepEqual([again.status, again.code, again.state], ["rejected", "hold_closed", "settled"]);
    });

    test("a refund by another name of its payment counts, until it fails", async () => {
      const [userId, payment, charge, refund] = [await user(), randomUUID(), randomUUID(), randomUUID()];
      const money = { amountMinor: 499, currency: "USD" };
      const early = await billing.paymentRefunded({
        referenceId: refund,
        originalReferenceId: charge,
        ...money,
      });
      assert.deepEqual([applied(early).code, early.userId], ["payment_awaited", undefined]);
      const paid = { referenceId: payment, userId, packageId: "starter", alsoKnownAs: [charge], ...money };
      assert.equal(applied(await billing.paymentSucceeded(paid)).balanceAfter, 10_000);
      const failed = await billing.refundFailed({
        referenceId: randomUUID(),
        originalReferenceId: payment,
        refundReferenceId: refund,
      });
      assert.deepEqual([applied(failed).userId, failed.balanceAfter], [userId, 60_000]);
    });

    test("an account is frozen by its payment, and used again later", async () => {
      const [userId, payment] = [await user(), randomUUID()];
      const money = { amountMinor: 499, currency: "USD" };
      applied(
        await billing.paymentSucceeded({ referenceId: payment, userId, packageId: "starter", ...money }),
      );
      const reason = "early fraud warning";
      const occurredAt = new Date(Date.now() - 60_000).toISOString(); // of two at one time the freeze counts
      const freeze = { referenceId: randomUUID(), paymentReferenceId: payment, reason, occurredAt };
      assert.equal(applied(await billing.freezeAccount(freeze)).code, "freeze_began");
      assert.equal((await billing.quote(userId, 1))?.code, "account_frozen");
      const job = { referenceId: randomUUID(), userId, tokens: 1 };
      assert.equal((await billing.deduct(job)).code, "account_frozen");
      applied(await billing.unfreezeAccount({ referenceId: randomUUID(), userId, reason: "checked" }));
      assert.equal(applied(await billing.deduct({ ...job, attempt: 2 })).balanceAfter, 59_999);
    });

    test("a period of the gateway's own goes back with its payment", async () => {
      const [userId, payment] = [await user(), randomUUID()];
      const now = Date.now();
      const period = {
        periodStart: new Date(now - 60_000).toISOString(),
        periodEnd: new Date(now + 7 * 86_400_000).toISOString(),
        payment: { referenceId: payment, amountMinor: 1_000, currency: "USD" },
      };
      const change = { referenceId: randomUUID(), userId, tier: "basic", ...period };
      const granted = applied(await billing.changeSubscription(change));
      const refund = { originalReferenceId: payment, amountMinor: 500, currency: "USD" };
      const back = applied(await billing.paymentRefunded({ referenceId: randomUUID(), ...refund }));
      assert.equal(back.amount, Math.floor(granted.amount! / 2));
    });

    test("a first usage can open the account", async () => {
      const usage = {
        referenceId: randomUUID(),
        userId: `user-${randomUUID()}`,
        tokens: 250,
        openTier: "free",
      };
      const opened = applied(await billing.deduct(usage));
      assert.deepEqual([opened.openedTier, opened.balanceAfter], ["free", 9_750]);
    });

    test("a batch has the result of each item, the user's own or the batch's", async () => {
      const userId = await user();
      const items = [
        { type: "usage.deduct" as const, referenceId: randomUUID(), tokens: 10 },
        { type: "usage.record" as const, referenceId: randomUUID(), meter: "ocr", quantity: 200 },
      ];
      const result = applied(await billing.batch({ referenceId: randomUUID(), userId, items }));
      assert.deepEqual([result.applied, result.rejected], [1, 1]);
      assert.deepEqual(
        result.items?.map(({ code }) => code),
        ["tokens_deducted", "insufficient_balance"],
      );
    });

    test("a reference names one operation: the same is a duplicate, another is a conflict", async () => {
      const [userId, referenceId] = [await user(), randomUUID()];
      const first = applied(await billing.deduct({ referenceId, userId, tokens: 5 }));
      assert.deepEqual(
        { ...(await billing.deduct({ referenceId, userId, tokens: 5 })), duplicate: false },
        first,
      );
      const other = await billing.deduct({ referenceId, userId, tokens: 6 });
      assert.deepEqual([other.status, other.code], ["rejected", "reference_conflict"]);
      assert.equal((await billing.operation(referenceId)).reply?.amount, 5);
      assert.equal((await billing.operation(randomUUID())).isKnown, false);
    });

    test("an amount below zero is refused", async () => {
      const refused = billing.deduct({ referenceId: randomUUID(), userId: "ada", tokens: -1 });
      await assert.rejects(
        refused,
        (error: BillingRefused) => error instanceof BillingRefused && error.field === "tokens",
      );
    });

    test("a quote prices a meter with its free units", async () => {
      const quote = await billing.quote(await user(), { meter: "upload", quantity: 105_906_176 });
      assert.deepEqual(
        [quote?.affordable, quote?.required, quote?.freeQuantity, quote?.chargedQuantity],
        [true, 10, 104_857_600, 1_048_576],
      );
    });

    test("subscriptions and payments move what they say", async () => {
      const [userId, payment] = [await user("basic"), randomUUID()];
      assert.equal(
        applied(await billing.changeSubscription({ referenceId: randomUUID(), userId, tier: "pro" })).amount,
        400_000,
      );
      const paid = { userId, packageId: "starter", amountMinor: 499, currency: "USD" };
      assert.equal(applied(await billing.paymentSucceeded({ referenceId: payment, ...paid })).amount, 50_000);
      const back = { userId, originalReferenceId: payment, amountMinor: 499, currency: "USD" };
      assert.equal(
        applied(await billing.paymentRefunded({ referenceId: randomUUID(), ...back })).amount,
        50_000,
      );
      const ended = applied(
        await billing.cancelSubscription({ referenceId: randomUUID(), userId, at: "now" }),
      );
      assert.equal(ended.balanceAfter, 0);
    });
  });
}

test("the fake has the worker's packaged catalog", async () => {
  const [worker, fake] = await Promise.all(
    Object.values(MAKERS).map(async (make) => {
      const billing = make();
      const { packages, tiers, meters } = await billing.catalog();
      await billing.close();
      return { packages, tiers, meters };
    }),
  );
  assert.deepEqual(fake, worker);
});

test("the fake's time is its own: holds run out, free periods follow, bonuses expire", async () => {
  const fake = new FakeBillingClient({ now: new Date("2026-01-31T12:00:00Z") });
  await fake.openAccount({ referenceId: "open", userId: "ada", tier: "free" });
  await fake.bonus({ referenceId: "bonus", userId: "ada", tokens: 500, expiresAt: "2026-02-03T00:00:00Z" });
  await fake.reserve({ referenceId: "hold", userId: "ada", tokens: 10_000, ttlSeconds: 60 });
  assert.equal(await fake.canAfford("ada", 501), false);
  fake.advance(61_000);
  assert.equal(await fake.canAfford("ada", 10_500), true);
  fake.setTime(new Date("2026-02-03T00:00:00Z"));
  assert.equal((await fake.balance("ada"))?.balance, 10_000);
  await fake.deduct({ referenceId: "job", userId: "ada", tokens: 9_000 });
  fake.setTime(new Date("2026-02-28T12:00:00Z"));
  assert.equal((await fake.balance("ada"))?.balance, 10_000);
});

test("the fake's credit that began and ended unseen is expired at the first look", async () => {
  const fake = new FakeBillingClient({ now: new Date("2026-01-01T00:00:00Z") });
  await fake.openAccount({ referenceId: "open", userId: "ada", tier: "free" });
  const [effectiveAt, expiresAt] = ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"];
  await fake.bonus({ referenceId: "bonus", userId: "ada", tokens: 500, effectiveAt, expiresAt });
  fake.setTime(new Date("2026-01-04T00:00:00Z"));
  assert.equal((await fake.balance("ada"))?.balance, 10_000);
});

test("the fake refuses what it can't answer as the worker does", async () => {
  const fake = new FakeBillingClient();
  await fake.openAccount({ referenceId: "open", userId: "ada", tier: "free" });
  await assert.rejects(fake.balance("ada", { at: "2026-01-01T00:00:00Z" }), /another time/);
  const reason = "of nobody";
  await assert.rejects(fake.freezeAccount({ referenceId: "freeze", reason }), /needs a userId/);
  const time = "2025-01-01T00:00:00Z";
  const times = { openedAt: time, anchor: time, asOf: time };
  const lots = [{ source: "bonus" as const, tokens: 41 }];
  const account = {
    referenceId: "import",
    userId: "eve",
    tier: "free",
    ...times,
    lots,
    totals: { bonus: 40 },
  };
  await assert.rejects(fake.importAccount(account), { name: "BillingRefused", message: /difference is -1/ });
});

test("the fake tells of credit that expires, on the terms that its catalog names", async () => {
  const fake = new FakeBillingClient({ catalog: { notices: { expiringDays: 3 } } });
  const told: unknown[] = [];
  await fake.notices((notice) => void told.push(notice), { queue: "app", types: ["credit.expiring"] });
  await fake.openAccount({ referenceId: "open", userId: "ada", tier: "free" });
  await fake.bonus({ referenceId: "bonus", userId: "ada", tokens: 500, expiresAt: "2026-01-11T00:00:00Z" });
  for (const day of [7, 8, 9]) {
    fake.setTime(new Date(`2026-01-0${day}T00:00:00Z`));
    await fake.deduct({ referenceId: `job-${day}`, userId: "ada", tokens: 100 });
  }
  const { tokens, expiresAt, recordedAt } = told[0] as Notice & { type: "credit.expiring" };
  assert.equal(told.length, 1);
  assert.deepEqual([tokens, expiresAt, recordedAt], [500, "2026-01-11T00:00:00Z", "2026-01-08T00:00:00Z"]);
});

test("the fake sells packages by currency, by quantity and for open amounts", async () => {
  const { packages, tiers, meters } = await new FakeBillingClient().catalog();
  const [starter] = packages as [(typeof packages)[0]];
  const sold = { ...starter, prices: { USD: 499, EUR: 459 } };
  const rates = { EUR: { tokens: 10, perMinor: 3 } };
  const open = { id: "open", index: 1, tokens: 0, bonusTokens: 0, prices: {}, rates };
  const fake = new FakeBillingClient({ catalog: { packages: [sold, open], tiers, meters } });
  await fake.openAccount({ referenceId: "open", userId: "ada", tier: "free" });
  const pay = (referenceId: string, packageId: string, amountMinor: number, more: object = {}) =>
    fake.paymentSucceeded({ referenceId, userId: "ada", packageId, amountMinor, currency: "EUR", ...more });
  assert.equal(applied(await pay("p1", "starter", 1_377, { quantity: 3 })).amount, 150_000);
  assert.equal(applied(await pay("p2", "open", 119, { taxMinor: 19 })).amount, 333);
  const { code, expected, received } = await pay("p3", "starter", 499);
  assert.deepEqual([code, expected, received], ["amount_mismatch", "459 EUR", "499 EUR"]);
  const other = await pay("p4", "open", 499, { currency: "USD" });
  assert.deepEqual([other.code, other.expected], ["amount_mismatch", "an amount in EUR"]);
});

function applied(result: Result): Result & { status: "applied" } {
  assert.equal(result.status, "applied", result.message);
  return result as Result & { status: "applied" };
}

function oldText(text: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof TokenServiceError && text.test(error.message);
}
