// The rules of the fake: one command at a time, in memory. The worker's own conversations are its test.

import { FakeAccount } from "./fake-account.js";
import type { Hold, Operation } from "./fake-account.js";
import type { Catalog } from "./fake-catalog.js";
import { formatTokens, iso } from "./formats.js";
import type { Code, Command, Reply } from "./generated/contract.js";

type Single = Exclude<Command, { type: "usage.batch" }>;
type Decision = Partial<Reply> & { status: "applied" | "rejected"; code: Code };

interface Outcome {
  readonly command: Single;
  readonly reply: Reply;
}

/** Version of the contract, which replies and notices carry. */
export const VERSION = { schemaVersion: 2 };

/** Highest step from one attempt to the next. */
const ATTEMPTS_MAX = 1_000;
const DAY_MS = 86_400_000;

interface Payment {
  readonly userId: string;
  /** Absent while only its events are known. */
  package?: Catalog["packages"][number];
  refunded: number;
  readonly lost: Map<string, number>;
  failed: boolean;
  taken: number;
}

/** Fields that move nothing: two messages that differ in these alone are one operation. */
const BESIDE_CONTENT = new Set(
  "attempt occurredAt metadata description provider reason actor replies validUntil".split(" "),
);

export class FakeLedger {
  readonly accounts = new Map<string, FakeAccount>();
  /** Outcomes by reference; the last is in force, and an earlier one is of usage that moved nothing. */
  readonly #outcomes = new Map<string, Outcome[]>();
  readonly #payments = new Map<string, Payment>();

  constructor(
    readonly catalog: Catalog,
    private readonly now: () => number,
  ) {}

  outcome(referenceId: string): Reply | undefined {
    return this.#outcomes.get(referenceId)?.at(-1)?.reply;
  }

  /** Payments that were credited. */
  get payments(): Catalog["packages"] {
    return [...this.#payments.values()].flatMap((payment) =>
      payment.package === undefined ? [] : [payment.package],
    );
  }

  /** Money taken by currency; what went back is not taken off. */
  revenue(): { currency: string; payments: number; amountMinor: number }[] {
    return [...new Set(this.payments.map((sold) => sold.currency))].map((currency) => {
      const sold = this.payments.filter((one) => one.currency === currency);
      return {
        currency,
        payments: sold.length,
        amountMinor: sold.reduce((all, one) => all + one.priceMinor, 0),
      };
    });
  }

  /** Return the user's account with what is due posted, as a read counts it. */
  account(userId: string): FakeAccount | undefined {
    const account = this.accounts.get(userId);
    const due = {
      transactionId: "0",
      referenceId: "due",
      type: "account.settle",
      code: "account_settled",
    };
    account?.settleDue(due, this.now());
    return account;
  }

  apply(command: Command): Reply {
    return command.type === "usage.batch" ? this.#batch(command) : this.#single(command);
  }

  #batch(batch: Extract<Command, { type: "usage.batch" }>): Reply {
    const items = batch.items.map((item) =>
      this.#single({ ...item, userId: item.userId ?? batch.userId } as Single),
    );
    const count = (status: string): number => items.filter((item) => item.status === status).length;
    return {
      ...VERSION,
      status: "applied",
      code: "batch_processed",
      message: `Processed ${items.length} items: ${count("applied")} applied, ${count("rejected")} rejected`,
      type: batch.type,
      referenceId: batch.referenceId,
      userId: batch.userId ?? undefined,
      duplicate: items.every((item) => item.duplicate),
      applied: count("applied"),
      rejected: count("rejected"),
      failed: count("failed"),
      items,
    };
  }

  /** The reference before anything that can change: the same operation gets its stored outcome again. */
  #single(command: Single): Reply {
    if (command.type === "account.import") throw new Error("FakeBillingClient does not know account.import");
    const malformed = amountBelowZero(command);
    if (malformed !== undefined) return malformed;
    const outcomes = this.#outcomes.get(command.referenceId) ?? [];
    const inForce = outcomes.at(-1);
    const attempt = command.attempt ?? 1;
    if (attempt > (inForce?.reply.attempt ?? 0) + ATTEMPTS_MAX) return conflict(command);
    const stored = outcomes.find((one) => isSame(one.command, command, attempt)) ?? inForce;
    if (stored !== undefined && isSame(stored.command, command, attempt)) {
      const last = stored.reply.attempt ?? 1;
      if (attempt <= last || stored.reply.status === "applied") return { ...stored.reply, duplicate: true };
      if (stored !== inForce) return conflict(command);
    } else if (stored !== undefined && !(movedNothing(stored) && !command.type.startsWith("usage."))) {
      return conflict(command);
    }
    const reply = this.#judged(command, attempt);
    const others = outcomes.filter((one) => one !== stored || !isSame(one.command, command, attempt));
    this.#outcomes.set(command.referenceId, [...others, { command, reply }]);
    return { ...reply };
  }

  #judged(command: Single, attempt: number): Reply {
    const { type, referenceId, userId } = command;
    const feature = "feature" in command ? (command.feature ?? undefined) : undefined;
    const operation: Operation = {
      transactionId: String(this.#outcomes.size + 1),
      referenceId,
      type,
      code: "",
      feature,
      description: command.description ?? undefined,
      metadata: command.metadata ?? undefined,
    };
    const known = this.accounts.get(userId);
    const [expiredBefore, entriesBefore] = [known?.totals.expired ?? 0, known?.entries.length ?? 0];
    const openTier = "openTier" in command ? command.openTier : undefined;
    const opening =
      this.account(userId) === undefined && openTier != null ? this.#opened(userId, openTier, operation) : {};
    const account = this.account(userId);
    const [before, expired] = [account?.balance ?? 0, (account?.totals.expired ?? 0) - expiredBefore];
    const decision =
      command.type === "account.open"
        ? this.#open(command, operation, account)
        : account === undefined
          ? rejected(opening.tier === undefined ? "account_not_found" : "unknown_tier", opening)
          : (tooLate(command, this.now()) ?? this.#rule(command, account, operation));
    const now = this.accounts.get(userId);
    return {
      ...VERSION,
      message: textOf(decision, userId),
      type,
      referenceId,
      userId,
      attempt,
      duplicate: false,
      transactionId: operation.transactionId,
      unit: type === "usage.free_upload" ? "bytes" : "tokens",
      balanceBefore: now && before,
      balanceAfter: now?.balance,
      held: now?.held || undefined,
      debt: now?.debt || undefined,
      expired: expired || undefined,
      recordedAt: iso(this.now()),
      sequence: now && now.entries.length > entriesBefore ? now.entries.length : undefined,
      openedTier: opening.openedTier,
      ...decision,
    } as Reply;
  }

  #rule(
    command: Exclude<Single, { type: "account.open" }>,
    account: FakeAccount,
    operation: Operation,
  ): Decision {
    const now = this.now();
    switch (command.type) {
      case "account.settle":
        return applied("account_settled", 0);
      case "usage.deduct":
        if (command.tokens > account.available && command.tokens > 0)
          return short(command.tokens, account.available);
        account.take({ ...operation, code: "tokens_deducted" }, "used", command.tokens, now);
        return applied("tokens_deducted", command.tokens);
      case "usage.record":
        return this.#record(command, account, operation);
      case "usage.free_upload": {
        const free = account.free("free_upload");
        const used = account.quotaUsed.get("free_upload") ?? 0;
        if (command.bytes > free) {
          return short(command.bytes, free, "free_upload_limit_exceeded", {
            used,
            limit: account.tier.freeUploadBytes,
          });
        }
        account.useQuota("free_upload", command.bytes);
        const sums = { used: used + command.bytes, limit: account.tier.freeUploadBytes };
        return applied("free_upload_counted", command.bytes, sums);
      }
      case "usage.reserve": {
        if (command.tokens > account.available) return short(command.tokens, account.available);
        const expiresAt = now + command.ttlSeconds * 1_000;
        account.holds.set(command.referenceId, { tokens: command.tokens, expiresAt, state: "open" });
        return applied("tokens_reserved", command.tokens, { expiresAt: iso(expiresAt) });
      }
      case "usage.extend":
      case "usage.settle":
      case "usage.release":
        return this.#endHold(command, account, operation);
      case "credit.refund":
        return this.#refund(command, account, operation);
      case "credit.bonus":
        return this.#bonus(command, account, operation);
      case "credit.adjust":
        return this.#adjust(command, account, operation);
      case "subscription.change":
      case "subscription.renew":
      case "subscription.cancel":
        return this.#subscription(command, account, operation);
      case "payment.succeeded":
        return this.#purchase(command, account, operation);
      case "payment.refunded":
      case "payment.disputed":
      case "payment.dispute_closed":
      case "payment.failed":
        return this.#reverse(command, account, operation);
      default: // a command of a later contract
        throw new Error(`FakeBillingClient does not know ${(command as { type: string }).type}`);
    }
  }

  /** Open a missing account for its first command; return the tier that it has, or that is not known. */
  #opened(userId: string, id: string, operation: Operation): { tier?: string; openedTier?: string } {
    const tier = this.#tier(id);
    if (tier === undefined) return { tier: id };
    const opened = new FakeAccount(userId, tier, this.now());
    this.accounts.set(userId, opened);
    opened.grant(operation, 0, this.now());
    return { openedTier: id };
  }

  #open(command: Of<"account.open">, operation: Operation, account: FakeAccount | undefined): Decision {
    if (account !== undefined) return rejected("account_exists", { tier: account.tier.id });
    const tier = this.#tier(command.tier);
    if (tier === undefined) return rejected("unknown_tier", { tier: command.tier });
    const opened = new FakeAccount(command.userId, tier, this.now());
    this.accounts.set(command.userId, opened);
    opened.grant({ ...operation, code: "account_opened" }, 0, this.now());
    return applied("account_opened", tier.monthlyTokens, { tier: tier.id });
  }

  /** Price a usage of a meter; undefined where the catalog has none such. */
  price(meter: string, quantity: number, account: FakeAccount): Price | undefined {
    const rule = this.catalog.meters.find((one) => one.id === meter);
    if (rule === undefined) return undefined;
    const freeQuantity = Math.min(account.free(rule.quota), quantity);
    const chargedQuantity = quantity - freeQuantity;
    const exact = (chargedQuantity * rule.tokens) / rule.per;
    const rounded =
      rule.rounding === "up"
        ? Math.ceil(exact)
        : rule.rounding === "down"
          ? Math.floor(exact)
          : halfEven(exact);
    const tokens = chargedQuantity === 0 ? 0 : Math.max(rounded, rule.minimumTokens);
    return { quota: rule.quota, tokens, freeQuantity, chargedQuantity };
  }

  #record(command: Of<"usage.record">, account: FakeAccount, operation: Operation): Decision {
    const { meter, quantity } = command;
    const price = this.price(meter, quantity, account);
    if (price === undefined) return rejected("unknown_meter", { meter });
    const { quota, tokens, freeQuantity, chargedQuantity } = price;
    const limit = account.limit(quota);
    const used = account.quotaUsed.get(quota) ?? 0;
    const detail = { meter, quantity, freeQuantity, chargedQuantity, limit, used };
    if (tokens > account.available && tokens > 0)
      return short(tokens, account.available, "insufficient_balance", detail);
    account.useQuota(quota, freeQuantity);
    account.take({ ...operation, code: "usage_recorded" }, "used", tokens, this.now());
    return applied("usage_recorded", tokens, { ...detail, used: used + freeQuantity });
  }

  #endHold(
    command: Of<"usage.extend" | "usage.settle" | "usage.release">,
    account: FakeAccount,
    operation: Operation,
  ): Decision {
    const detail = { originalReferenceId: command.originalReferenceId };
    const hold = account.holds.get(command.originalReferenceId);
    if (hold === undefined) return rejected("hold_not_found", detail);
    if (hold.state === "expired" && command.type === "usage.settle" && command.onExpired !== "refuse") {
      return this.#settleLate(command, account, operation, hold);
    }
    if (hold.state !== "open") return rejected("hold_closed", { ...detail, state: hold.state });
    if (command.type === "usage.extend") {
      hold.expiresAt = Math.max(hold.expiresAt, this.now() + command.ttlSeconds * 1_000);
      return applied("hold_extended", hold.tokens, { ...detail, expiresAt: iso(hold.expiresAt) });
    }
    if (command.type === "usage.release") {
      hold.state = "released";
      return applied("hold_released", hold.tokens, detail);
    }
    const excess = command.tokens - hold.tokens;
    if (excess > 0 && command.onExcess !== "take")
      return short(command.tokens, hold.tokens, "hold_exceeded", detail);
    if (excess > account.available)
      return short(command.tokens, hold.tokens + account.available, undefined, detail);
    hold.state = "settled";
    account.take({ ...operation, code: "hold_settled" }, "used", command.tokens, this.now());
    return applied("hold_settled", command.tokens, { ...detail, released: Math.max(-excess, 0) });
  }

  /** Take what is available for work whose hold ran out before. */
  #settleLate(command: Of<"usage.settle">, account: FakeAccount, operation: Operation, hold: Hold): Decision {
    const available = Math.max(account.available, 0);
    const taken = Math.min(command.tokens, available);
    hold.state = "settled";
    account.take({ ...operation, code: "hold_settled_late" }, "used", taken, this.now());
    const { tokens: required, originalReferenceId } = command;
    return applied("hold_settled_late", taken, {
      originalReferenceId,
      required,
      available,
      shortfall: required - taken,
    });
  }

  #refund(command: Of<"credit.refund">, account: FakeAccount, operation: Operation): Decision {
    const { tokens, originalReferenceId } = command;
    if (originalReferenceId == null) return rejected("original_required", {});
    const original = this.outcome(originalReferenceId);
    if (original === undefined || original.userId !== account.userId) {
      return rejected("original_not_found", { originalReferenceId });
    }
    const taken = sum(
      account.entries.filter(
        (entry) => entry.referenceId === originalReferenceId && entry.counter === "usage",
      ),
    );
    if (taken === 0) return rejected("original_not_refundable", { originalReferenceId });
    const back = sum(
      account.entries.filter((entry) => this.#original.get(entry.referenceId) === originalReferenceId),
    );
    const left = -taken - back;
    if (tokens > left) return short(tokens, left, "refund_exceeds_original", { originalReferenceId });
    this.#original.set(command.referenceId, originalReferenceId);
    account.credit({ ...operation, code: "tokens_refunded" }, "refunded", tokens, this.now(), {
      source: "refund",
    });
    return applied("tokens_refunded", tokens, { originalReferenceId });
  }

  readonly #original = new Map<string, string>();

  #bonus(command: Of<"credit.bonus">, account: FakeAccount, operation: Operation): Decision {
    const now = this.now();
    const { tokens, effectiveAt, expiresAt, priority } = command;
    if (expiresAt != null && Date.parse(expiresAt) <= now) return rejected("credit_expired", { expiresAt });
    const lot = {
      source: "bonus",
      priority,
      ...(expiresAt == null ? {} : { expiresAt: Date.parse(expiresAt) }),
    };
    const detail = expiresAt == null ? {} : { expiresAt: iso(Date.parse(expiresAt)) };
    if (effectiveAt != null && Date.parse(effectiveAt) > now) {
      const at = Date.parse(effectiveAt);
      account.schedule(at, tokens, () =>
        account.credit({ ...operation, code: "bonus_scheduled" }, "bonus", tokens, at, lot),
      );
      return applied("bonus_scheduled", tokens, { ...detail, effectiveAt: iso(at) });
    }
    account.credit({ ...operation, code: "bonus_granted" }, "bonus", tokens, now, lot);
    return applied("bonus_granted", tokens, detail);
  }

  #adjust(command: Of<"credit.adjust">, account: FakeAccount, operation: Operation): Decision {
    const now = this.now();
    const { tokens, expiresAt } = command;
    const detail = { reason: command.reason, actor: command.actor };
    if (expiresAt != null && Date.parse(expiresAt) <= now)
      return rejected("credit_expired", { expiresAt, ...detail });
    if (tokens > 0) {
      const lot = {
        source: "adjustment",
        ...(expiresAt == null ? {} : { expiresAt: Date.parse(expiresAt) }),
      };
      account.credit({ ...operation, code: "adjustment_credited" }, "adjusted", tokens, now, lot);
      return applied("adjustment_credited", tokens, detail);
    }
    if (-tokens > account.available && command.allowNegative !== true) {
      return short(-tokens, account.available, "insufficient_balance", detail);
    }
    account.take({ ...operation, code: "adjustment_debited" }, "adjusted", -tokens, now);
    return applied("adjustment_debited", -tokens, detail);
  }

  #subscription(
    command: Of<"subscription.change" | "subscription.renew" | "subscription.cancel">,
    account: FakeAccount,
    operation: Operation,
  ): Decision {
    const now = this.now();
    if (command.type === "subscription.change") {
      const tier = this.#tier(command.tier);
      if (tier === undefined) return rejected("unknown_tier", { tier: command.tier });
      account.tier = tier;
      account.endsAt = undefined;
      const more =
        account.grantedPeriod === account.period
          ? Math.max(tier.monthlyTokens - account.granted, 0)
          : tier.monthlyTokens;
      account.granted = Math.max(account.granted, tier.monthlyTokens);
      account.grantedPeriod = account.period;
      account.allocate({ ...operation, code: "subscription_changed" }, more, now);
      const { periodEnd } = period(account, account.period);
      return applied("subscription_changed", more, { tier: tier.id, periodEnd });
    }
    if (account.endsAt !== undefined) return rejected("subscription_not_active", {});
    if (command.type === "subscription.cancel") {
      account.endsAt = command.at === "now" ? now : account.periodStart(account.period + 1);
      const canceled = { ...operation, code: "subscription_canceled" };
      const ended = command.at === "now" ? account.endAllocation(canceled, now) : 0;
      return applied("subscription_canceled", ended, { periodEnd: iso(account.endsAt) });
    }
    return this.#renew(command, account, operation);
  }

  /** Grant the present period, or the next one within a day of its beginning. */
  #renew(command: Of<"subscription.renew">, account: FakeAccount, operation: Operation): Decision {
    const now = this.now();
    const { monthlyTokens, id: tier } = account.tier;
    const next = account.period + 1;
    const isNear = account.periodStart(next) - now <= DAY_MS && account.grantedPeriod >= account.period;
    const named = command.periodStart == null ? now : Date.parse(command.periodStart);
    const number = account.periodAt(named) === account.period && isNear ? next : account.periodAt(named);
    if (number === account.period && account.grantedPeriod < number) {
      account.grant({ ...operation, code: "subscription_renewed" }, number, now);
      return applied("subscription_renewed", monthlyTokens, { tier, ...period(account, number) });
    }
    if (number <= account.grantedPeriod) return rejected("period_already_granted", period(account, number));
    if (number !== next || !isNear) return rejected("period_out_of_range", { periodStart: iso(named) });
    account.grantedPeriod = next;
    const at = account.periodStart(next);
    account.schedule(at, monthlyTokens, () =>
      account.grant({ ...operation, code: "renewal_scheduled" }, next, at),
    );
    return applied("renewal_scheduled", monthlyTokens, { tier, ...period(account, next) });
  }

  #purchase(command: Of<"payment.succeeded">, account: FakeAccount, operation: Operation): Decision {
    const { packageId, packageIndex, amountMinor, currency } = command;
    const sold = this.catalog.packages.find((one) =>
      packageId == null ? one.index === packageIndex : one.id === packageId,
    );
    if (sold === undefined)
      return rejected("unknown_package", { packageId: packageId ?? `#${packageIndex}` });
    const [expected, received] = [`${sold.priceMinor} ${sold.currency}`, `${amountMinor} ${currency}`];
    if (expected !== received) return rejected("amount_mismatch", { packageId: sold.id, expected, received });
    const bought = { ...operation, code: "tokens_purchased" };
    account.credit(bought, "purchased", sold.tokens, this.now(), { source: "purchase" });
    if (sold.bonusTokens > 0) {
      account.credit(bought, "bonus", sold.bonusTokens, this.now(), { source: "purchase_bonus" });
    }
    const payment = this.#payment(command.referenceId, command.userId);
    payment.package = sold;
    this.#bringUpToDate(payment, account, bought);
    const tokens = { packageId: sold.id, baseTokens: sold.tokens, bonusTokens: sold.bonusTokens };
    return applied("tokens_purchased", sold.tokens + sold.bonusTokens, tokens);
  }

  /** An event of a payment counts when the payment is known, whichever comes first. */
  #reverse(
    command: Of<"payment.refunded" | "payment.disputed" | "payment.dispute_closed" | "payment.failed">,
    account: FakeAccount,
    operation: Operation,
  ): Decision {
    const originalReferenceId = command.originalReferenceId;
    const known = this.#payments.get(originalReferenceId);
    if (
      (known === undefined && this.outcome(originalReferenceId)) ||
      (known && known.userId !== account.userId)
    ) {
      return rejected("original_not_found", { originalReferenceId });
    }
    const payment = this.#payment(originalReferenceId, account.userId);
    if (
      command.type !== "payment.failed" &&
      payment.package &&
      command.currency !== payment.package.currency
    ) {
      const expected = `${payment.package.priceMinor} ${payment.package.currency}`;
      const received = `${command.amountMinor} ${command.currency}`;
      return rejected("currency_mismatch", { originalReferenceId, expected, received });
    }
    if (command.type === "payment.refunded") payment.refunded += command.amountMinor;
    if (command.type === "payment.failed") payment.failed = true;
    if (command.type === "payment.dispute_closed") {
      payment.lost.set(command.disputeId, command.result === "lost" ? command.amountMinor : 0);
    }
    const detail =
      "amountMinor" in command
        ? { originalReferenceId, amountMinor: command.amountMinor }
        : { originalReferenceId };
    if (payment.package === undefined) return applied("payment_awaited", 0, detail);
    const code = reversal(command);
    return applied(code, this.#bringUpToDate(payment, account, { ...operation, code }), detail);
  }

  /** Take back in proportion to the money that went back, never more than was paid. */
  #bringUpToDate(payment: Payment, account: FakeAccount, operation: Operation): number {
    if (payment.package === undefined) return 0;
    const { priceMinor, tokens, bonusTokens } = payment.package;
    const lost = [...payment.lost.values()].reduce((all, one) => all + one, 0);
    const money = payment.failed ? priceMinor : Math.min(payment.refunded + lost, priceMinor);
    const share = (part: number): number => Math.floor((part * money) / priceMinor);
    const change = share(tokens) + share(bonusTokens) - payment.taken;
    payment.taken += change;
    if (change > 0) account.take(operation, "reversed", change, this.now(), "purchase");
    if (change < 0) account.credit(operation, "reversed", -change, this.now(), { source: "purchase" });
    return Math.abs(change);
  }

  #payment(referenceId: string, userId: string): Payment {
    const found = this.#payments.get(referenceId) ?? {
      userId,
      refunded: 0,
      lost: new Map(),
      failed: false,
      taken: 0,
    };
    this.#payments.set(referenceId, found);
    return found;
  }

  #tier(id: string): Catalog["tiers"][number] | undefined {
    return this.catalog.tiers.find((tier) => tier.id === id);
  }
}

export interface Price {
  readonly quota: string;
  readonly tokens: number;
  readonly freeQuantity: number;
  readonly chargedQuantity: number;
}

type Of<T extends Single["type"]> = Extract<Single, { type: T }>;

/** Return whether a command is the stored one: a rejected one may have other content with its next attempt. */
function isSame(stored: Single, command: Single, attempt: number): boolean {
  if (stored.type !== command.type || stored.userId !== command.userId) return false;
  return attempt > (stored.attempt ?? 1) || contentOf(stored) === contentOf(command);
}

function contentOf(command: Single): string {
  const fields = Object.entries(command).filter(
    ([name, value]) => value != null && !BESIDE_CONTENT.has(name),
  );
  return JSON.stringify(fields.sort());
}

/** Return the rejection of usage that is decided after its `validUntil`. */
function tooLate(command: Single, now: number): Decision | undefined {
  if (!("validUntil" in command) || command.validUntil == null) return undefined;
  const validUntil = Date.parse(command.validUntil);
  return now <= validUntil ? undefined : rejected("too_late", { validUntil: iso(validUntil) });
}

function movedNothing({ command, reply }: Outcome): boolean {
  return command.type.startsWith("usage.") && (reply.status === "rejected" || reply.amount === 0);
}

function amountBelowZero(command: Single): Reply | undefined {
  const amounts = Object.entries(command).filter(([name]) =>
    ["tokens", "bytes", "quantity", "amountMinor"].includes(name),
  );
  const field = amounts.find(([, value]) => value < 0)?.[0];
  if (field === undefined || command.type === "credit.adjust") return undefined;
  const { type, referenceId, userId } = command;
  const message = `${field}: must be 0 or more`;
  return {
    ...VERSION,
    status: "failed",
    code: "malformed",
    reason: "invalid_field",
    message,
    field,
    type,
    referenceId,
    userId,
    duplicate: false,
  };
}

function conflict(command: Single): Reply {
  const { type, referenceId, userId } = command;
  const message = `The reference '${referenceId}' names another operation. Nothing moved.`;
  return {
    ...VERSION,
    status: "rejected",
    code: "reference_conflict",
    message,
    type,
    referenceId,
    userId,
    attempt: command.attempt ?? 1,
    duplicate: false,
  };
}

function applied(code: Code, amount: number, detail: Partial<Reply> = {}): Decision {
  return { ...detail, status: "applied", code, amount };
}

function rejected(code: Code, detail: Partial<Reply>): Decision {
  return { ...detail, status: "rejected", code };
}

function short(
  required: number,
  available: number,
  code: Code = "insufficient_balance",
  detail: Partial<Reply> = {},
): Decision {
  return rejected(code, { ...detail, required, available, shortfall: required - available });
}

/** Texts that callers of the old service know; of the others the code is enough. */
function textOf({ code, required = 0, available = 0 }: Decision, userId: string): string {
  const amounts = `Required: ${formatTokens(required, { up: true })}, Available: ${formatTokens(available)}`;
  if (code === "insufficient_balance") return `Insufficient token balance. ${amounts}`;
  if (code === "free_upload_limit_exceeded") return `Free upload limit exceeded. ${amounts}`;
  return `${code.replaceAll("_", " ")} (user ${userId})`;
}

function reversal(command: { type: string; result?: string }): Code {
  if (command.type === "payment.refunded") return "payment_refunded";
  if (command.type === "payment.disputed") return "payment_disputed";
  if (command.type === "payment.failed") return "payment_failed";
  return command.result === "won" ? "dispute_won" : "dispute_lost";
}

function period(account: FakeAccount, number: number): Partial<Reply> {
  return { periodStart: iso(account.periodStart(number)), periodEnd: iso(account.periodStart(number + 1)) };
}

function sum(entries: readonly { amount: number }[]): number {
  return entries.reduce((all, entry) => all + entry.amount, 0);
}

function halfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
