// Answers of the fake to queries.

import { formatTokens, iso } from "../formats.js";
import type { Answer, Query, QueryProblem, Totals } from "../generated/contract.js";
import type { FakeAccount } from "./account.js";
import { soldAt } from "./catalog.js";
import { isZone } from "./days.js";
import { LOOK, withDue } from "./due.js";
import { decide } from "./judging.js";
import { VERSION } from "./ledger.js";
import type { FakeLedger } from "./ledger.js";
import { history, usage } from "./reports.js";

type Of<T> = Extract<Query, { type: T }>;

/** Return the answer to `query`. Throws where it would be another one than the worker's. */
export function answerTo(query: Query, ledger: FakeLedger): Answer {
  refuseUnmodelled(query);
  const head = { ...VERSION, asOf: iso(ledger.now()) };
  switch (query.type) {
    case "query.stats":
      return { ...head, type: "answer.stats", ...stats(ledger) };
    case "query.catalog":
      return { ...head, type: "answer.catalog", hash: "fake", ...catalog(ledger) };
    case "query.operation": {
      const { referenceId } = query;
      const stored = ledger.outcome(referenceId);
      const reply = stored && { ...stored.reply, duplicate: true };
      return { ...head, type: "answer.operation", referenceId, isKnown: stored !== undefined, reply };
    }
  }
  const { userId, minSequence } = query;
  const problem = (code: QueryProblem["code"], message: string, field?: string): QueryProblem => {
    return { ...head, type: "answer.problem", code, message, field, query: query.type, userId };
  };
  if (query.type === "query.usage" && !isZone(query.timezone ?? "UTC"))
    return problem("malformed", `The time zone '${query.timezone}' is not known.`, "timezone");
  const posted = query.type === "query.afford" ? ledger.toUse(userId) : ledger.accounts.get(userId);
  if (posted === undefined) return problem("account_not_found", `No token account for user ${userId}`);
  const sequence = posted.entries.length;
  if ((minSequence ?? 0) > sequence)
    return problem("sequence_not_reached", "the account is not there yet", "minSequence");
  const ofAccount = { ...head, userId, sequence };
  switch (query.type) {
    case "query.balance":
      return { ...ofAccount, type: "answer.balance", ...balance(posted, ledger) };
    case "query.afford":
      return { ...ofAccount, type: "answer.afford", ...afford(query, posted, ledger) };
    case "query.history":
      return { ...ofAccount, type: "answer.history", ...history(query, posted, ledger.outcomes) };
    case "query.usage":
      return { ...ofAccount, type: "answer.usage", ...usage(query, posted, ledger.now()) };
  }
}

function catalog({ catalog: { packages, tiers, meters }, now }: FakeLedger) {
  return { packages: packages.map((one) => soldAt(one, now())), tiers: [...tiers], meters: [...meters] };
}

/** Return totals of all accounts, as they are posted. */
function stats(ledger: FakeLedger) {
  const accounts = [...ledger.accounts.values()];
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
    revenue: Object.entries(counted(sold.map((one) => one.currency).sort())).map(([currency, payments]) => {
      const ofCurrency = sold.filter((one) => one.currency === currency);
      return { currency, payments, amountMinor: total(ofCurrency, (one) => one.amountMinor) };
    }),
  };
}

const SUMS = "allocated purchased bonus refunded adjusted used expired reversed".split(
  " ",
) as (keyof Totals)[];

/** Return the state of an account with what is due by now. */
function balance(posted: FakeAccount, ledger: FakeLedger) {
  const account = withDue(posted);
  const { balance, held, available, debt, tier, totals, endsAt } = account;
  const sources = [...new Set(account.lots.filter(({ tokens }) => tokens !== 0).map(({ source }) => source))];
  const ofSource = (name: string) => account.lots.filter(({ source }) => source === name);
  const lots = Object.fromEntries(
    sources.map((name) => [name, total(ofSource(name), ({ tokens }) => tokens)]),
  );
  return {
    ...{ balance, held, available, debt, lots, totals },
    pending: total(account.lots, (lot) => lot.pending),
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
    quotas: account.quotaNames.map((name) => {
      const unit = ledger.catalog.meters.find((meter) => meter.quota === name)?.unit ?? "byte";
      const [limit, used, remaining] = [account.limit(name), account.used(name), account.free(name)];
      return { name, unit, limit, used, remaining };
    }),
    frozenAt: account.frozenAt === undefined ? undefined : iso(account.frozenAt),
    ...nextCredit(account),
    openedAt: iso(account.openedAt),
    updatedAt: posted.entries.at(-1)?.recordedAt ?? iso(account.openedAt),
  };
}

/** The next credit that comes by itself: one that is scheduled, or a free tier's period. */
function nextCredit({ tier, next, calendar: { grantedUntil }, endsAt, lots }: FakeAccount) {
  const { autoRenew, monthlyTokens } = next !== undefined && grantedUntil >= next.at ? next.tier : tier;
  const isComing = autoRenew && monthlyTokens > 0 && endsAt === Infinity;
  const scheduled = lots.filter(({ pending }) => pending > 0);
  const pending = scheduled.map(({ effectiveAt: at, pending: tokens }) => ({ at, tokens }));
  const coming = [...pending, ...(isComing ? [{ at: grantedUntil, tokens: monthlyTokens }] : [])];
  if (coming.length === 0) return {};
  const first = Math.min(...coming.map(({ at }) => at));
  const atOnce = coming.filter(({ at }) => at === first);
  return { nextCreditAt: iso(first), nextCreditTokens: total(atOnce, ({ tokens }) => tokens) };
}

/** Return the result that a usage would have now, as the rules give it. */
function afford(
  { userId, tokens, meter, quantity }: Of<"query.afford">,
  posted: FakeAccount,
  ledger: FakeLedger,
) {
  const account = withDue(posted);
  const { available } = account;
  const about = { referenceId: "query.afford", userId };
  const decision = decide(
    meter == null
      ? { type: "usage.deduct", ...about, tokens: tokens ?? 0 }
      : { type: "usage.record", ...about, meter, quantity: quantity ?? 0 },
    { ledger, account, operation: LOOK, now: ledger.now() },
  );
  const { status, code, amount, shortfall = 0, freeQuantity, chargedQuantity } = decision;
  const affordable = status === "applied";
  const asked = { meter: meter ?? undefined, quantity: quantity ?? undefined };
  const required = affordable ? amount : decision.required;
  return { affordable, code, required, available, shortfall, ...asked, freeQuantity, chargedQuantity };
}

/** Fail loudly where the fake would answer otherwise than the worker does. */
function refuseUnmodelled(query: Query): void {
  if ("at" in query && query.at != null)
    throw new Error("FakeBillingClient knows no balance of another time");
}

function total<T>(all: readonly T[], of: (one: T) => number): number {
  return all.reduce((sum, one) => sum + of(one), 0);
}

function counted(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}
