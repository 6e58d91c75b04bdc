// Answers of the fake to queries.

import { sumOf } from "./fake-account.js";
import type { Entry, FakeAccount } from "./fake-account.js";
import { VERSION } from "./fake-ledger.js";
import type { FakeLedger } from "./fake-ledger.js";
import { formatTokens, iso } from "./formats.js";
import type { Answer, Query, QueryProblem, Totals } from "./generated/contract.js";

type Of<T> = Extract<Query, { type: T }>;

const DAY_MS = 86_400_000;

/** Return the answer to `query`. Throws where it would be another one than the worker's. */
export function answerTo(query: Query, ledger: FakeLedger): Answer {
  refuseUnmodelled(query);
  const head = { ...VERSION, asOf: iso(ledger.now()) };
  switch (query.type) {
    case "query.stats":
      return { ...head, type: "answer.stats", ...stats(ledger) };
    case "query.catalog":
      return { ...head, type: "answer.catalog", hash: "fake", ...ledger.catalog };
    case "query.operation": {
      const { referenceId } = query;
      const stored = ledger.outcome(referenceId);
      const reply = stored && { ...stored, duplicate: true };
      return { ...head, type: "answer.operation", referenceId, isKnown: stored !== undefined, reply };
    }
  }
  const { userId } = query;
  const account = ledger.account(userId);
  const problem = (code: QueryProblem["code"], message: string, field?: string): QueryProblem => {
    return { ...head, type: "answer.problem", code, message, field, query: query.type, userId };
  };
  if (account === undefined) return problem("account_not_found", `No token account for user ${userId}`);
  const sequence = account.entries.length;
  if ((query.minSequence ?? 0) > sequence)
    return problem("sequence_not_reached", "the account is not there yet", "minSequence");
  const ofAccount = { ...head, userId, sequence };
  switch (query.type) {
    case "query.balance":
      return { ...ofAccount, type: "answer.balance", ...balance(account, ledger) };
    case "query.afford":
      return { ...ofAccount, type: "answer.afford", ...afford(query, account, ledger) };
    case "query.history":
      return { ...ofAccount, type: "answer.history", ...history(query, account) };
    case "query.usage":
      return { ...ofAccount, type: "answer.usage", ...usage(query, account, ledger.now()) };
  }
}

function stats(ledger: FakeLedger) {
  const accounts = [...ledger.accounts.keys()].map((userId) => ledger.account(userId)!);
  const totals = accounts.map((account) => account.totals);
  const sold = ledger.payments.all;
  return {
    users: accounts.length,
    balance: total(accounts, (account) => account.balance),
    held: total(accounts, (account) => account.held),
    debt: total(accounts, (account) => account.debt),
    totals: Object.fromEntries(
      SUMS.map((name) => [name, total(totals, (one) => one[name])]),
    ) as unknown as Totals,
    payments: sold.length,
    accountsByTier: counted(accounts.map((account) => account.tier.id)),
    revenue: Object.entries(counted(sold.map((one) => one.currency))).map(([currency, payments]) => {
      const ofCurrency = sold.filter((one) => one.currency === currency);
      return { currency, payments, amountMinor: total(ofCurrency, (one) => one.amountMinor) };
    }),
  };
}

const SUMS = "allocated purchased bonus refunded adjusted used expired reversed".split(
  " ",
) as (keyof Totals)[];

function balance(account: FakeAccount, ledger: FakeLedger) {
  const { balance, held, available, debt, tier, lotsBySource: lots, totals, endsAt } = account;
  const quotaNames = ["free_upload", ...Object.keys(tier.freeUnits).sort()];
  return {
    ...{ balance, held, available, debt, lots, totals },
    pending: total(account.scheduled, (one) => one.tokens),
    balanceFormatted: formatTokens(balance),
    heldFormatted: formatTokens(held),
    availableFormatted: formatTokens(available),
    subscription: {
      tier: tier.id,
      isActive: ledger.now() < endsAt,
      periodStart: iso(account.period.start),
      periodEnd: iso(account.period.end),
      grantedUntil: iso(account.calendar.grantedUntil),
      endsAt: endsAt === Infinity ? undefined : iso(endsAt),
    },
    monthlyAllocation: tier.monthlyTokens,
    monthlyAllocationFormatted: formatTokens(tier.monthlyTokens),
    quotas: quotaNames.map((name) => {
      const unit = ledger.catalog.meters.find((meter) => meter.quota === name)?.unit ?? "byte";
      const [limit, used, remaining] = [account.limit(name), account.used(name), account.free(name)];
      return { name, unit, limit, used, remaining };
    }),
    frozenAt: account.frozenAt === undefined ? undefined : iso(account.frozenAt),
    ...nextCredit(account),
    openedAt: iso(account.openedAt),
    updatedAt: account.entries.at(-1)?.recordedAt ?? iso(account.openedAt),
  };
}

/** The next credit that comes by itself: one that is scheduled, or a free tier's period. */
function nextCredit({ tier, next, calendar: { grantedUntil }, endsAt, scheduled }: FakeAccount) {
  const { autoRenew, monthlyTokens } = next !== undefined && grantedUntil >= next.at ? next.tier : tier;
  const isComing = autoRenew && monthlyTokens > 0 && endsAt === Infinity;
  const coming = [...scheduled, ...(isComing ? [{ at: grantedUntil, tokens: monthlyTokens }] : [])];
  if (coming.length === 0) return {};
  const first = Math.min(...coming.map(({ at }) => at));
  const atOnce = coming.filter(({ at }) => at === first);
  return { nextCreditAt: iso(first), nextCreditTokens: total(atOnce, ({ tokens }) => tokens) };
}

function afford({ tokens, meter, quantity }: Of<"query.afford">, account: FakeAccount, ledger: FakeLedger) {
  const { available, frozenAt } = account;
  const asked = meter == null ? {} : { meter, quantity: quantity ?? 0 };
  if (frozenAt !== undefined)
    return { affordable: false, code: "account_frozen", available, shortfall: 0, ...asked } as const;
  const price = meter == null ? undefined : ledger.price(meter, quantity ?? 0, account);
  if (meter != null && price === undefined)
    return { affordable: false, code: "unknown_meter", available, shortfall: 0, meter } as const;
  const required = price?.tokens ?? tokens ?? 0;
  const affordable = account.canPay(required);
  const done = price === undefined ? "tokens_deducted" : "usage_recorded";
  const code = affordable ? done : "insufficient_balance";
  const { freeQuantity, chargedQuantity } = price ?? {};
  const metered = price && { meter: meter!, quantity: quantity!, freeQuantity, chargedQuantity };
  const shortfall = affordable ? 0 : required - available;
  return { affordable, code, required, available, shortfall, ...metered } as const;
}

function history(query: Of<"query.history">, account: FakeAccount) {
  const { transactionType, feature, from, to, limit = 50 } = query;
  const offset = query.offset ?? Number(query.cursor ?? 0);
  const isKept = ({ operation, recordedAt }: Entry): boolean =>
    (transactionType ?? operation.type) === operation.type &&
    (feature == null || feature === operation.feature) &&
    recordedAt >= (from ?? "") &&
    (to == null || recordedAt < to);
  const kept = account.entries.filter(isKept).reverse();
  const hasMore = kept.length > offset + limit;
  const page = kept.slice(offset, offset + limit);
  return {
    transactions: page.map(({ operation, ...entry }) => ({ ...operation, ...entry })),
    limit,
    ...(kept.length < account.entries.length ? {} : { offset, total: kept.length }),
    hasMore,
    nextCursor: hasMore ? String(offset + limit) : undefined,
  };
}

function usage(query: Of<"query.usage">, account: FakeAccount, now: number) {
  const last = query.to == null ? now : Date.parse(query.to);
  const first = query.from == null ? last - ((query.days ?? 30) - 1) * DAY_MS : Date.parse(query.from);
  const days = Math.round((last - first) / DAY_MS) + 1;
  const dates = Array.from({ length: days }, (_, number) => day(first + number * DAY_MS));
  const used = account.entries.filter(
    (entry) => entry.counter === "usage" && dates.includes(entry.occurredAt.slice(0, 10)),
  );
  const tokensOf = (is: (entry: Entry) => boolean): number => 0 - sumOf(used.filter(is));
  const total = tokensOf(() => true);
  const averageDaily = Math.floor(total / days);
  return {
    period: { days, startDate: dates[0]!, endDate: dates.at(-1)! },
    timezone: "UTC",
    total,
    averageDaily,
    projectedMonthly: averageDaily * 30,
    dailyUsage: dates.map((date) => ({
      date,
      tokens: tokensOf((entry) => entry.occurredAt.startsWith(date)),
    })),
    usageByType: [...new Set(used.map((entry) => entry.operation.type))].map((type) => {
      const tokens = tokensOf((entry) => entry.operation.type === type);
      return { type, tokens, percentage: Math.round((tokens / total) * 10_000) / 100 };
    }),
  };
}

/** Fail loudly where an answer would be another one than the worker's. */
function refuseUnmodelled(query: Query): void {
  const given = Object.entries(query).filter(([name, value]) => LIMITED.has(name) && !MODELLED.has(value));
  const names = given.map(([name]) => name).join(", ");
  if (names) throw new Error(`FakeBillingClient does not know ${names} of ${query.type}`);
}

const LIMITED = new Set(["at", "timezone", "groupBy", "status"]);
const MODELLED = new Set<unknown>([undefined, null, "UTC", "applied"]);

function total<T>(all: readonly T[], of: (one: T) => number): number {
  return all.reduce((sum, one) => sum + of(one), 0);
}

function counted(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

function day(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}
