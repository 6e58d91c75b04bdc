// Answers of the fake that list or sum the entries of an account: history, and usage by day and group.

import { iso } from "../formats.js";
import type { GroupUsage, Query, Transaction, TypeUsage } from "../generated/contract.js";
import { sumOf } from "./account.js";
import type { Entry, FakeAccount } from "./account.js";
import type { Outcome } from "./contents.js";
import { countOfDays, daysUntil, localDay } from "./days.js";
import type { Single } from "./decisions.js";
import { halfEven } from "./usage.js";

type Of<T> = Extract<Query, { type: T }>;

// -- history -----------------------------------------------------------------------------------------------

/** Return a page of posted entries, of refused operations, or of both, the newest first. */
export function history(query: Of<"query.history">, account: FakeAccount, outcomes: readonly Outcome[]) {
  const { status = "applied", transactionType, feature, from, to, limit = 50 } = query;
  const offset = query.offset ?? Number(query.cursor ?? 0);
  const isFiltered = status !== "applied" || [transactionType, feature, from, to].some((one) => one != null);
  const isKept = (one: Transaction): boolean =>
    (transactionType ?? one.type) === one.type &&
    Date.parse(one.recordedAt) >= Date.parse(from ?? one.recordedAt) &&
    (to == null || Date.parse(one.recordedAt) < Date.parse(to));
  const posted = status === "rejected" ? [] : account.entries.map(transactionOf).reverse();
  const isOf = (one: Transaction): boolean => feature == null || feature === one.feature;
  const refused = status === "applied" ? [] : refusedOf(account.userId, feature ?? undefined, outcomes);
  const kept = [...posted.filter(isOf), ...refused].filter(isKept).sort(byAge);
  const hasMore = kept.length > offset + limit;
  return {
    transactions: kept.slice(offset, offset + limit),
    limit,
    ...(isFiltered ? {} : { offset, total: kept.length }),
    hasMore,
    nextCursor: hasMore ? String(offset + limit) : undefined,
  };
}

function transactionOf({ operation, ...entry }: Entry): Transaction {
  const { occurredAt: _, feature: __, ...about } = operation;
  return { ...about, ...entry };
}

/** Return the operations of a user that were rejected, the newest first. */
function refusedOf(userId: string, feature: string | undefined, outcomes: readonly Outcome[]): Transaction[] {
  const isWanted = ({ command, reply }: Outcome): boolean =>
    reply.status === "rejected" &&
    reply.userId === userId &&
    (feature === undefined || (command as Partial<Single & { feature: string }>).feature === feature);
  const refused = outcomes.filter(isWanted).sort((one, other) => numberOf(other) - numberOf(one));
  return refused.map(({ command, operation, reply }) => {
    const { transactionId, referenceId, type, metadata, occurredAt } = operation;
    const { code, recordedAt = "", balanceBefore: balance } = reply;
    const { description } = command as Single;
    return {
      ...{ transactionId, referenceId, type, status: "rejected", code, amount: 0 },
      ...{ balanceBefore: balance, balanceAfter: balance, description: description ?? undefined, metadata },
      ...{ recordedAt, occurredAt: occurredAt === undefined ? recordedAt : iso(occurredAt) },
    };
  });
}

function numberOf({ operation }: Outcome): number {
  return Number(operation.transactionId);
}

/** Compare two transactions by the time of recording, the newest first; of one time entries by sequence. */
function byAge(one: Transaction, other: Transaction): number {
  const [time, otherTime] = [Date.parse(one.recordedAt), Date.parse(other.recordedAt)];
  return otherTime - time || (other.sequence ?? 0) - (one.sequence ?? 0);
}

// -- usage -------------------------------------------------------------------------------------------------

/** Most groups that an answer names; the tokens of all others are one number. */
const GROUPS_MAX = 1_000;

/** Return the used tokens of local days, at the time of the event and not of its posting. */
export function usage(query: Of<"query.usage">, account: FakeAccount, now: number) {
  const { timezone = "UTC", groupBy } = query;
  const last = query.to ?? localDay(now, timezone);
  const days = query.from == null ? (query.days ?? 30) : countOfDays(query.from, last);
  const dates = daysUntil(last, days);
  const tokens = new Map(dates.map((date) => [date, 0]));
  const used = account.entries.filter(({ counter, occurredAt, amount }) => {
    const date = localDay(Date.parse(occurredAt), timezone);
    if (counter !== "usage" || !tokens.has(date)) return false;
    tokens.set(date, tokens.get(date)! - amount);
    return true;
  });
  const total = 0 - sumOf(used);
  return {
    period: { days, startDate: dates[0]!, endDate: dates.at(-1)! },
    timezone,
    total,
    averageDaily: Math.floor(total / days),
    projectedMonthly: Math.floor((total * 30) / days),
    dailyUsage: [...tokens].map(([date, tokensOfDay]) => ({ date, tokens: tokensOfDay })),
    usageByType: groups(used, ({ operation }) => operation.type, total).map(
      ({ key, ...group }): TypeUsage => ({ type: key!, ...group }),
    ),
    groupBy: groupBy ?? undefined,
    ...(groupBy == null || groupBy === "day" ? {} : named(groups(used, keyOf(groupBy), total))),
  };
}

/** Return the first groups, and the tokens of all others. */
function named(all: GroupUsage[]) {
  const others = all.slice(GROUPS_MAX).reduce((sum, group) => sum + group.tokens, 0);
  return { groups: all.slice(0, GROUPS_MAX), otherGroups: others };
}

/** Return the key of an entry's group: its feature, its type, or a value of its metadata. */
function keyOf(groupBy: string): (entry: Entry) => string | undefined {
  if (groupBy === "feature") return ({ feature }) => feature || undefined;
  if (groupBy === "type") return ({ operation }) => operation.type;
  const name = groupBy.slice("metadata.".length);
  return ({ operation: { metadata } }) => {
    const value = metadata?.[name];
    return value == null || value === "" ? undefined : String(value);
  };
}

/** Return used tokens by group, most used first, of equals in the order of their keys; without a key last. */
function groups(
  used: readonly Entry[],
  of: (entry: Entry) => string | undefined,
  total: number,
): GroupUsage[] {
  const tokens = new Map<string | undefined, number>();
  for (const entry of used) tokens.set(of(entry), (tokens.get(of(entry)) ?? 0) - entry.amount);
  const order = (key: string | undefined): string => key ?? "";
  return [...tokens]
    .sort(([key, one], [otherKey, other]) => other - one || (order(key) < order(otherKey) ? -1 : 1))
    .map(([key, sum]) => ({ key, tokens: sum, percentage: percentage(sum, total) }));
}

/** Return the share in percent with two decimals; a tie goes to the even one. */
function percentage(part: number, whole: number): number {
  const exact = (100 * part) / whole;
  return Number.isInteger(exact * 8) ? halfEven(exact * 100) / 100 : Number(exact.toFixed(2));
}
