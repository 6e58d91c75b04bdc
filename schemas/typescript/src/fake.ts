// A ledger in memory with the client's interface, for an app's own unit tests: no broker, no worker, no waiting.

import type { FakeAccount } from "./fake-account.js";
import { CATALOG } from "./fake-catalog.js";
import type { Catalog } from "./fake-catalog.js";
import { FakeLedger, VERSION } from "./fake-ledger.js";
import { formatTokens, iso } from "./formats.js";
import { BillingUnavailable } from "./errors.js";
import type { Answer, Command, Notice, Query, QuotaStatus, Reply, Totals } from "./generated/contract.js";
import type { Handler, Subscription } from "./listening.js";
import { encode } from "./numbers.js";
import { Billing, resultOf } from "./vocabulary.js";
import type { NoticesOptions, Result } from "./vocabulary.js";

const DAY_MS = 86_400_000;

/** Marks of the notices about balances, as the packaged catalog has them. */
const MARKS = [
  { type: "balance.low", at: 1_000, againFrom: 5_000 },
  { type: "balance.depleted", at: 0, againFrom: 1_000 },
] as const;

/** Client of a ledger in memory. Time stands still until `setTime` or `advance`.
 *
 * It knows the rules that an app meets every day: references, balances, holds, quotas, periods, packages,
 * refunds and expiry. It leaves out roll-over, notices of expiring credit, and what holds keep of single lots;
 * a question that it can't answer as the worker does is an error. */
export class FakeBillingClient extends Billing {
  readonly #ledger: FakeLedger;
  readonly #replies = new Set<Handler<Reply>>();
  readonly #notices = new Set<{ handler: Handler<Notice>; types: readonly string[] | undefined }>();
  readonly #noticed = new Set<string>();
  #now: number;
  #failure: Error | undefined;
  #isClosed = false;

  constructor(options: { now?: Date; catalog?: Catalog } = {}) {
    super();
    this.#now = (options.now ?? new Date("2026-01-01T00:00:00Z")).getTime();
    this.#ledger = new FakeLedger(options.catalog ?? CATALOG, () => this.#now);
  }

  get now(): Date {
    return new Date(this.#now);
  }

  setTime(now: Date): void {
    this.#now = now.getTime();
  }

  advance(milliseconds: number): void {
    this.#now += milliseconds;
  }

  /** Let every call fail with `error`, such as a BillingTimeout, until it is called with none. */
  failWith(error?: Error): void {
    this.#failure = error;
  }

  override async request(command: Command): Promise<Result> {
    return resultOf(await this.#applied(command));
  }

  override async publish(command: Command): Promise<void> {
    const reply = await this.#applied(command);
    if (!isWanted(command, reply)) return;
    for (const handler of this.#replies) await handler(reply);
  }

  override async ask(query: Query): Promise<Answer> {
    this.#check();
    encode(query);
    refuseUnmodelled(query);
    return this.#answer(query);
  }

  override async replies(handler: Handler<Reply>): Promise<Subscription> {
    this.#replies.add(handler);
    return { close: async () => void this.#replies.delete(handler) };
  }

  override async notices(handler: Handler<Notice>, options: NoticesOptions): Promise<Subscription> {
    const listener = { handler, types: options.types };
    this.#notices.add(listener);
    return { close: async () => void this.#notices.delete(listener) };
  }

  override async close(): Promise<void> {
    this.#isClosed = true;
  }

  #check(): void {
    if (this.#isClosed) throw new BillingUnavailable("the client is closed");
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #applied(command: Command): Promise<Reply> {
    this.#check();
    encode(command); // the same numbers are refused
    const reply = this.#ledger.apply(command);
    for (const { userId, referenceId } of [reply, ...(reply.items ?? [])]) {
      const account = userId === undefined ? undefined : this.#ledger.accounts.get(userId);
      if (account !== undefined) await this.#notify(account, referenceId ?? "");
    }
    return reply;
  }

  async #notify(account: FakeAccount, referenceId: string): Promise<void> {
    const { userId, available } = account;
    for (const { type, at, againFrom } of MARKS) {
      const name = `${type} ${userId}`;
      if (available >= againFrom) this.#noticed.delete(name);
      if (available > at || this.#noticed.has(name)) continue;
      this.#noticed.add(name);
      const id = `${name} ${referenceId}`;
      const notice: Notice = {
        ...VERSION,
        type,
        id,
        userId,
        referenceId,
        recordedAt: iso(this.#now),
        available,
        mark: at,
      };
      for (const { handler, types } of this.#notices)
        if (types?.includes(type) ?? true) await handler(notice);
    }
  }

  // -- queries ---------------------------------------------------------------------------------------------

  #answer(query: Query): Answer {
    const head = { ...VERSION, asOf: iso(this.#now) };
    switch (query.type) {
      case "query.stats":
        return { ...head, type: "answer.stats", ...this.#stats() };
      case "query.catalog":
        return { ...head, type: "answer.catalog", hash: "fake", ...this.#ledger.catalog };
      case "query.operation": {
        const stored = this.#ledger.outcome(query.referenceId);
        const reply = stored && { ...stored, duplicate: true };
        return {
          ...head,
          type: "answer.operation",
          referenceId: query.referenceId,
          isKnown: reply !== undefined,
          reply,
        };
      }
    }
    const account = this.#ledger.account(query.userId);
    if (account === undefined) {
      const message = `No token account for user ${query.userId}`;
      return {
        ...head,
        type: "answer.problem",
        code: "account_not_found",
        message,
        query: query.type,
        userId: query.userId,
      };
    }
    if ((query.minSequence ?? 0) > account.entries.length) {
      const [message, userId] = ["the account is not there yet", query.userId];
      return {
        ...head,
        type: "answer.problem",
        code: "sequence_not_reached",
        field: "minSequence",
        message,
        query: query.type,
        userId,
      };
    }
    const ofAccount = { ...head, userId: account.userId, sequence: account.entries.length };
    switch (query.type) {
      case "query.balance":
        return { ...ofAccount, type: "answer.balance", ...this.#balance(account) };
      case "query.afford":
        return { ...ofAccount, type: "answer.afford", ...this.#afford(query, account) };
      case "query.history":
        return { ...ofAccount, type: "answer.history", ...history(query, account) };
      case "query.usage":
        return { ...ofAccount, type: "answer.usage", ...this.#usage(query, account) };
    }
  }

  #stats() {
    const accounts = [...this.#ledger.accounts.keys()].map((userId) => this.#ledger.account(userId)!);
    const sum = (of: (account: FakeAccount) => number): number =>
      accounts.reduce((all, one) => all + of(one), 0);
    const tiers = accounts.map((account) => account.tier.id);
    const names = [
      "allocated",
      "purchased",
      "bonus",
      "refunded",
      "adjusted",
      "used",
      "expired",
      "reversed",
    ] as const;
    return {
      users: accounts.length,
      balance: sum((account) => account.balance),
      held: sum((account) => account.held),
      debt: sum((account) => account.debt),
      totals: Object.fromEntries(
        names.map((name) => [name, sum((one) => one.totals[name])]),
      ) as unknown as Totals,
      payments: this.#ledger.payments.length,
      accountsByTier: Object.fromEntries(
        tiers.map((tier) => [tier, tiers.filter((one) => one === tier).length]),
      ),
      revenue: this.#ledger.revenue(),
    };
  }

  #balance(account: FakeAccount) {
    const { balance, held, available, debt, tier } = account;
    const periodEnd = iso(account.periodStart(account.period + 1));
    return {
      balance,
      held,
      available,
      debt,
      pending: account.pending,
      balanceFormatted: formatTokens(balance),
      heldFormatted: formatTokens(held),
      availableFormatted: formatTokens(available),
      lots: account.lotsBySource(),
      totals: { ...account.totals },
      subscription: {
        tier: tier.id,
        isActive: account.isActive(this.#now),
        periodStart: iso(account.periodStart()),
        periodEnd,
        grantedUntil: iso(account.periodStart(account.grantedPeriod + 1)),
        endsAt: account.endsAt === undefined ? undefined : iso(account.endsAt),
      },
      monthlyAllocation: tier.monthlyTokens,
      monthlyAllocationFormatted: formatTokens(tier.monthlyTokens),
      quotas: this.#quotas(account),
      ...nextCredit(account),
      openedAt: iso(account.openedAt),
      updatedAt: account.entries.at(-1)?.recordedAt ?? iso(account.openedAt),
    };
  }

  #quotas(account: FakeAccount): QuotaStatus[] {
    const limits: Record<string, number> = {
      free_upload: account.tier.freeUploadBytes,
      ...account.tier.freeUnits,
    };
    return Object.entries(limits).map(([name, limit]) => {
      const unit = this.#ledger.catalog.meters.find((meter) => meter.quota === name)?.unit ?? "byte";
      return {
        name,
        unit,
        limit,
        used: account.quotaUsed.get(name) ?? 0,
        remaining: account.free(name),
      };
    });
  }

  #afford(query: Extract<Query, { type: "query.afford" }>, account: FakeAccount) {
    const { tokens, meter, quantity } = query;
    const { available } = account;
    const price = meter == null ? undefined : this.#ledger.price(meter, quantity ?? 0, account);
    if (meter != null && price === undefined) {
      return { affordable: false, code: "unknown_meter" as const, available, shortfall: 0, meter };
    }
    const required = price?.tokens ?? tokens ?? 0;
    const affordable = required <= available || required === 0;
    const done = price === undefined ? ("tokens_deducted" as const) : ("usage_recorded" as const);
    const units = price && { freeQuantity: price.freeQuantity, chargedQuantity: price.chargedQuantity };
    return {
      affordable,
      code: affordable ? done : ("insufficient_balance" as const),
      required,
      available,
      shortfall: affordable ? 0 : required - available,
      ...(units === undefined
        ? {}
        : { meter: meter ?? undefined, quantity: quantity ?? undefined, ...units }),
    };
  }

  #usage(query: Extract<Query, { type: "query.usage" }>, account: FakeAccount) {
    const last = query.to == null ? this.#now : Date.parse(query.to);
    const first = query.from == null ? last - ((query.days ?? 30) - 1) * DAY_MS : Date.parse(query.from);
    const dates = Array.from({ length: Math.round((last - first) / DAY_MS) + 1 }, (_, n) =>
      day(first + n * DAY_MS),
    );
    const used = account.entries.filter(
      (entry) => entry.counter === "usage" && dates.includes(entry.occurredAt.slice(0, 10)),
    );
    const total = used.reduce((all, entry) => all - entry.amount, 0);
    const tokensOf = (of: (entry: (typeof used)[number]) => boolean): number =>
      used.filter(of).reduce((all, entry) => all - entry.amount, 0);
    const types = [...new Set(used.map((entry) => entry.type))];
    const averageDaily = Math.floor(total / dates.length);
    return {
      period: { days: dates.length, startDate: dates[0]!, endDate: dates.at(-1)! },
      timezone: "UTC",
      total,
      averageDaily,
      projectedMonthly: averageDaily * 30,
      dailyUsage: dates.map((date) => ({
        date,
        tokens: tokensOf((entry) => entry.occurredAt.startsWith(date)),
      })),
      usageByType: types.map((type) => {
        const tokens = tokensOf((entry) => entry.type === type);
        return { type, tokens, percentage: Math.round((tokens / total) * 10_000) / 100 };
      }),
    };
  }
}

function history(query: Extract<Query, { type: "query.history" }>, account: FakeAccount) {
  const limit = query.limit ?? 50;
  const offset = query.offset ?? Number(query.cursor ?? 0);
  const kept = account.entries
    .filter((entry) => query.transactionType == null || entry.type === query.transactionType)
    .filter((entry) => query.feature == null || entry.feature === query.feature)
    .filter((entry) => query.from == null || entry.recordedAt >= query.from)
    .filter((entry) => query.to == null || entry.recordedAt < query.to)
    .reverse();
  const hasMore = kept.length > offset + limit;
  const transactions = kept.slice(offset, offset + limit);
  const isFiltered = kept.length < account.entries.length;
  const sums = isFiltered ? {} : { offset, total: kept.length };
  return { transactions, limit, ...sums, hasMore, nextCursor: hasMore ? String(offset + limit) : undefined };
}

/** The next credit that comes by itself: one that is scheduled, or a free tier's period. */
function nextCredit(account: FakeAccount): { nextCreditAt?: string; nextCreditTokens?: number } {
  const { autoRenew, monthlyTokens } = account.tier;
  const periodEnd = account.periodStart(account.period + 1);
  const renewal =
    autoRenew && account.isActive(periodEnd) ? { at: periodEnd, tokens: monthlyTokens } : undefined;
  const scheduled = account.nextScheduled;
  const next = renewal && scheduled && renewal.at < scheduled.at ? renewal : (scheduled ?? renewal);
  return next === undefined ? {} : { nextCreditAt: iso(next.at), nextCreditTokens: next.tokens };
}

/** Return whether the sender wants the reply: all of them, problems alone, or none. */
function isWanted({ replies }: Command, reply: Reply): boolean {
  const isProblem = reply.status !== "applied" || Boolean(reply.rejected) || Boolean(reply.failed);
  return replies === "problems" ? isProblem : replies !== "none";
}

/** Fail loudly where an answer would be another one than the worker's. */
function refuseUnmodelled(query: Query): void {
  const given = Object.entries(query).filter(([name, value]) => LIMITED.has(name) && !MODELLED.has(value));
  if (given.length === 0) return;
  throw new Error(
    `FakeBillingClient does not know ${given.map(([name]) => name).join(", ")} of ${query.type}`,
  );
}

const LIMITED = new Set(["at", "timezone", "groupBy", "status"]);
const MODELLED = new Set<unknown>([undefined, null, "UTC", "applied"]);

function day(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}
