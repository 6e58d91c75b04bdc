// The ten methods of the old token service, on the ledger: a team replaces an import.

import { randomUUID } from "node:crypto";

import { BillingError } from "./errors.js";
import { formatTokens } from "./formats.js";
import type { BalanceAnswer, CatalogPackage, Command, HistoryAnswer, Reply } from "./generated/contract.js";
import type { StatsAnswer, Transaction, UsageAnswer } from "./generated/contract.js";
import type { Applied, Rejected, Result } from "./outcomes.js";
import type { AffordOptions, Billing } from "./vocabulary.js";

const FREE_UPLOAD = "free_upload";
const DAY_MS = 86_400_000;

/** An account as the old service knew it, with what it formatted. */
export type TokenBalance = Readonly<ReturnType<typeof tokenBalance>>;

function tokenBalance(answer: BalanceAnswer) {
  const { balance, totals } = answer;
  const uploads = answer.quotas.find((quota) => quota.name === FREE_UPLOAD);
  const totalEarned = earned(totals);
  return {
    userId: answer.userId,
    currentBalance: balance,
    /** Everything that was ever credited: allocations, purchases, bonuses, refunds and corrections. */
    totalEarned,
    totalUsed: totals.used,
    totalPurchased: totals.purchased,
    freeUploadUsed: uploads?.used ?? 0,
    freeUploadRemaining: uploads?.remaining ?? 0,
    currentBalanceFormatted: answer.balanceFormatted,
    totalEarnedFormatted: formatTokens(totalEarned),
    totalUsedFormatted: formatTokens(totals.used),
    totalPurchasedFormatted: formatTokens(totals.purchased),
    monthlyAllocation: answer.monthlyAllocation ?? 0,
    monthlyAllocationFormatted: answer.monthlyAllocationFormatted ?? formatTokens(0),
    subscription: answer.subscription,
  };
}

function earned({ allocated, purchased, bonus, refunded, adjusted }: BalanceAnswer["totals"]): number {
  return allocated + purchased + bonus + refunded + adjusted;
}

/** One line of the history; `amount` is negative where tokens were taken. */
export type TokenTransaction = Readonly<ReturnType<typeof tokenTransaction>>;

function tokenTransaction(entry: Transaction) {
  const { type, amount, referenceId } = entry;
  return {
    id: `${entry.transactionId}-${entry.sequence}`,
    type,
    amount,
    balanceBefore: entry.balanceBefore ?? 0,
    balanceAfter: entry.balanceAfter ?? 0,
    description: entry.description ?? null,
    referenceId,
    referenceType: entry.feature ?? null,
    metadata: entry.metadata ?? null,
    createdAt: new Date(entry.recordedAt),
  };
}

export type TransactionHistory = Readonly<ReturnType<typeof transactionHistory>>;

function transactionHistory(page: HistoryAnswer | null, limit: number, offset: number) {
  const { transactions = [], total = 0, hasMore = false } = page ?? {};
  return { transactions: transactions.map(tokenTransaction), total, limit, offset, hasMore };
}

export type UsageAnalytics = Readonly<ReturnType<typeof usageAnalytics>>;

function usageAnalytics(answer: Pick<UsageAnswer, keyof ReturnType<typeof noUsage>>) {
  const { period, total, averageDaily, projectedMonthly, dailyUsage, usageByType } = answer;
  const [startDate, endDate] = [new Date(period.startDate), new Date(period.endDate)];
  const usage = { total, averageDaily, projectedMonthly };
  return { period: { days: period.days, startDate, endDate }, usage, dailyUsage, usageByType };
}

/** Return the usage of an unknown account: none, day by day until today. */
function noUsage(days: number) {
  const daysAgo = (count: number) => new Date(Date.now() - count * DAY_MS).toISOString().slice(0, 10);
  const dailyUsage = Array.from({ length: days }, (_, n) => ({ date: daysAgo(days - 1 - n), tokens: 0 }));
  const period = { days, startDate: daysAgo(days - 1), endDate: daysAgo(0) };
  return { period, total: 0, averageDaily: 0, projectedMonthly: 0, dailyUsage, usageByType: [] };
}

export type GlobalStats = Readonly<ReturnType<typeof globalStats>>;

function globalStats({ users, balance, totals }: StatsAnswer) {
  return {
    totalBalances: users,
    totalTokensInCirculation: balance,
    totalTokensEarned: earned(totals),
    totalTokensUsed: totals.used,
    totalTokensPurchased: totals.purchased,
  };
}

/** The ledger refused; the text is the old service's, `code` and `reply` are the ledger's. */
export class TokenServiceError extends BillingError {
  constructor(
    message: string,
    readonly code: string,
    readonly reply?: Reply,
  ) {
    super(message);
  }
}

/** The operation was applied, and only the new balance could not be read. Don't repeat it. */
export class BalanceUnread extends BillingError {
  constructor(
    readonly reply: Applied,
    cause: unknown,
  ) {
    super(`${reply.referenceId} was applied; its balance can't be read now`, { cause });
  }
}

/** Texts of the old service; the worker writes the others alike. */
const OLD_TEXTS: Record<string, string> = {
  account_not_found: "Token balance not found",
  unknown_package: "Invalid token package",
};

/** Token service over any client of the ledger.
 *
 * A key (`referenceId`, `paymentIntentId`, `idempotencyKey`) names one operation for ever: a call with the same
 * key is applied once. Without a key each call is an operation of its own. A rejected call may be repeated with
 * its key: it is judged anew. */
export class TokenService {
  constructor(private readonly billing: Billing) {}

  async getBalance(userId: string): Promise<TokenBalance> {
    return this.#balance(userId, {});
  }

  async canAfford(userId: string, tokensRequired: number, options?: AffordOptions): Promise<boolean> {
    return this.billing.canAfford(userId, tokensRequired, options);
  }

  /** Take tokens. `referenceType`, such as "upload", is what statistics group by. */
  async deductTokens(params: {
    userId: string;
    amount: number;
    description: string;
    referenceId?: string | undefined;
    referenceType?: string | undefined;
  }): Promise<TokenBalance> {
    const { userId, amount: tokens, description, referenceType: feature } = params;
    const referenceId = params.referenceId ?? randomUUID();
    return this.#apply({ type: "usage.deduct", referenceId, userId, tokens, description, feature });
  }

  /** Credit a package, once for each payment. The price is what was paid, or else that of the catalog. */
  async purchaseTokens(params: {
    userId: string;
    packageIndex: number;
    paymentIntentId: string;
    paid?: { readonly amountMinor: number; readonly currency: string } | undefined;
  }): Promise<TokenBalance> {
    const { userId, packageIndex, paymentIntentId: referenceId } = params;
    const sold = (await this.billing.catalog()).packages.find((one) => one.index === packageIndex);
    if (sold === undefined) throw oldError("unknown_package");
    const paid = params.paid ?? priceOf(sold);
    if (params.paid === undefined && (await this.#isPaid(referenceId, userId, sold.id)))
      return this.getBalance(userId);
    return this.#apply({ type: "payment.succeeded", referenceId, userId, packageIndex, ...paid });
  }

  /** Give tokens of a usage back. `referenceId` is that usage's; without it the catalog must allow refunds
   * that name none (`refunds.unbound`). */
  async refundTokens(params: {
    userId: string;
    amount: number;
    reason: string;
    referenceId?: string | undefined;
    idempotencyKey?: string | undefined;
  }): Promise<TokenBalance> {
    const { userId, amount: tokens, reason: description, referenceId: originalReferenceId } = params;
    const referenceId = params.idempotencyKey ?? randomUUID();
    const refund = { referenceId, userId, tokens, description, originalReferenceId };
    return this.#apply({ type: "credit.refund", ...refund });
  }

  async addBonusTokens(
    userId: string,
    amount: number,
    reason: string,
    idempotencyKey: string = randomUUID(),
  ): Promise<TokenBalance> {
    const bonus = { referenceId: idempotencyKey, userId, tokens: amount, description: reason };
    return this.#apply({ type: "credit.bonus", ...bonus });
  }

  async trackFreeUploadUsage(
    userId: string,
    bytesUsed: number,
    idempotencyKey: string = randomUUID(),
  ): Promise<TokenBalance> {
    const upload = { referenceId: idempotencyKey, userId, bytes: bytesUsed };
    return this.#apply({ type: "usage.free_upload", ...upload });
  }

  /** Return a page, newest first; an empty one for an unknown account. */
  async getTransactionHistory(userId: string, limit = 50, offset = 0): Promise<TransactionHistory> {
    return transactionHistory(await this.billing.history(userId, { limit, offset }), limit, offset);
  }

  /** Return the usage of the last days, today included, in UTC; zeros for an unknown account. */
  async getUsageAnalytics(userId: string, days = 30): Promise<UsageAnalytics> {
    return usageAnalytics((await this.billing.usage(userId, { days })) ?? noUsage(days));
  }

  async getGlobalStats(): Promise<GlobalStats> {
    return globalStats(await this.billing.stats());
  }

  /** Send a command, and once more where its reference was rejected before; return the new balance. */
  async #apply(
    command: Exclude<Command, { type: "usage.batch" }> & { userId: string },
  ): Promise<TokenBalance> {
    let result = await this.billing.request(command);
    if (isOldRejection(result)) {
      result = await this.billing.request({ ...command, attempt: (result.attempt ?? 1) + 1 });
    }
    if (result.status === "rejected") throw oldError(result.code, result);
    try {
      return await this.#balance(command.userId, { minSequence: result.sequence });
    } catch (error) {
      throw new BalanceUnread(result, error);
    }
  }

  async #balance(userId: string, fields: { minSequence?: number | undefined }): Promise<TokenBalance> {
    const answer = await this.billing.balance(userId, fields);
    if (answer === null) throw oldError("account_not_found");
    return tokenBalance(answer);
  }

  /** Return whether the payment is stored: a price that has changed since would make it a conflict. */
  async #isPaid(paymentId: string, userId: string, packageId: string): Promise<boolean> {
    const { reply } = await this.billing.operation(paymentId);
    return reply?.status === "applied" && reply.userId === userId && reply.packageId === packageId;
  }
}

/** Return the one price of a package; of one with several, or with rates, only `paid` says what was paid. */
function priceOf({ id, priceMinor, currency }: CatalogPackage) {
  if (priceMinor == null || currency == null) {
    throw new RangeError(`The package ${id} has no single price: say what was paid, in paid`);
  }
  return { amountMinor: priceMinor, currency };
}

function isOldRejection(result: Result): result is Rejected {
  return result.status === "rejected" && result.duplicate && result.code !== "reference_conflict";
}

function oldError(code: string, reply?: Rejected): TokenServiceError {
  return new TokenServiceError(oldText(code, reply), code, reply);
}

function oldText(code: string, reply?: Rejected): string {
  if (code === "free_upload_limit_exceeded" && reply !== undefined) {
    return `Free upload limit exceeded. ${oldAmounts(reply)}`;
  }
  return OLD_TEXTS[code] ?? reply?.message ?? code;
}

/** Return required and available as the old service told them, also where the worker's text has units. */
function oldAmounts({ required = 0, available = 0 }: Rejected): string {
  return `Required: ${formatTokens(required, { up: true })}, Available: ${formatTokens(available)}`;
}
