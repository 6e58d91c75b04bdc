// The ledger of the fake: accounts, and what is stored about each reference. The worker's own conversations
// are its test.

import { FakeAccount } from "./fake-account.js";
import type { Operation } from "./fake-account.js";
import { RULES, applied, rejected } from "./fake-rules.js";
import type { Case, Decision, Single } from "./fake-rules.js";
import { formatTokens, iso } from "./formats.js";
import type { CatalogAnswer, CatalogPackage, CatalogTier, Command, Reply } from "./generated/contract.js";

export type Catalog = Pick<CatalogAnswer, "packages" | "tiers" | "meters">;

/** Version of the contract, which replies and notices carry. */
export const VERSION = { schemaVersion: 2 };

/** Highest step from one attempt to the next. */
const ATTEMPTS_MAX = 1_000;
/** Fields that move nothing: two messages that differ in these alone are one operation. */
const BESIDE_CONTENT = new Set(
  "attempt occurredAt metadata description provider reason actor replies validUntil".split(" "),
);
const AMOUNTS = new Set(["tokens", "bytes", "quantity", "amountMinor"]);

interface Outcome {
  readonly command: Single;
  readonly reply: Reply;
}

/** A payment and its events; `sold` is absent while only its events are known. */
/** Package with one price: the fake knows no others. */
export type Sold = CatalogPackage & { priceMinor: number; currency: string };

export interface Payment {
  readonly userId: string;
  sold?: Sold;
  refunded: number;
  readonly lost: Map<string, number>;
  hasFailed: boolean;
  taken: number;
}

export interface Price {
  readonly quota: string;
  readonly tokens: number;
  readonly freeQuantity: number;
  readonly chargedQuantity: number;
}

export class FakeLedger {
  readonly accounts = new Map<string, FakeAccount>();
  readonly payments = new Map<string, Payment>();
  /** Usages by the references of their refunds. */
  readonly refunded = new Map<string, string>();
  /** Free units that are left of usage, with the quota and the period that they came from. */
  readonly counted = new Map<string, { quota: string; period: number; left: number }>();
  /** Outcomes by reference; the last is in force, and an earlier one is of usage that moved nothing. */
  readonly #outcomes = new Map<string, Outcome[]>();

  constructor(
    readonly catalog: Catalog,
    readonly now: () => number,
  ) {}

  outcome(referenceId: string): Reply | undefined {
    return this.#outcomes.get(referenceId)?.at(-1)?.reply;
  }

  /** Return the user's account with what is due posted, as a read counts it. */
  account(userId: string): FakeAccount | undefined {
    const due = { transactionId: "0", referenceId: "due", type: "account.settle", code: "account_settled" };
    const account = this.accounts.get(userId);
    account?.postDue(due, this.now());
    return account;
  }

  tier(id: string): CatalogTier | undefined {
    return this.catalog.tiers.find((tier) => tier.id === id);
  }

  payment(referenceId: string, userId: string): Payment {
    const none = { userId, refunded: 0, lost: new Map(), hasFailed: false, taken: 0 };
    const payment = this.payments.get(referenceId) ?? none;
    this.payments.set(referenceId, payment);
    return payment;
  }

  /** Price a usage of a meter; undefined where the catalog has none such. */
  price(meter: string, quantity: number, account: FakeAccount): Price | undefined {
    const rule = this.catalog.meters.find((one) => one.id === meter);
    if (rule === undefined) return undefined;
    const freeQuantity = Math.min(account.free(rule.quota), quantity);
    const chargedQuantity = quantity - freeQuantity;
    const round = { up: Math.ceil, down: Math.floor }[rule.rounding as string] ?? halfEven;
    const exact = round((chargedQuantity * rule.tokens) / rule.per);
    const tokens = chargedQuantity === 0 ? 0 : Math.max(exact, rule.minimumTokens);
    return { quota: rule.quota, tokens, freeQuantity, chargedQuantity };
  }

  apply(command: Command): Reply {
    return command.type === "usage.batch" ? this.#batch(command) : this.#single(command);
  }

  #batch(batch: Extract<Command, { type: "usage.batch" }>): Reply {
    const items = batch.items.map((item) => this.#single({ userId: batch.userId, ...item } as Single));
    const count = (status: string): number => items.filter((item) => item.status === status).length;
    const counts = { applied: count("applied"), rejected: count("rejected"), failed: count("failed") };
    const message = `Processed ${items.length} items: ${counts.applied} applied, ${counts.rejected} rejected`;
    const duplicate = items.every((item) => item.duplicate);
    const { type, referenceId, userId } = batch;
    const head = { ...VERSION, type, referenceId, userId: userId ?? undefined, message, duplicate };
    return { ...head, status: "applied", code: "batch_processed", ...counts, items };
  }

  /** The reference before anything that can change: the same operation gets its stored outcome again. */
  #single(command: Single): Reply {
    const malformed = amountBelowZero(command);
    if (malformed !== undefined) return malformed;
    const outcomes = this.#outcomes.get(command.referenceId) ?? [];
    const inForce = outcomes.at(-1);
    const attempt = command.attempt ?? 1;
    if (attempt > (inForce?.reply.attempt ?? 0) + ATTEMPTS_MAX) return conflict(command);
    const same = outcomes.find((one) => isSame(one.command, command, attempt));
    if (same !== undefined) {
      const isAnswered = attempt <= (same.reply.attempt ?? 1) || same.reply.status === "applied";
      if (isAnswered) return { ...same.reply, duplicate: true };
      if (same !== inForce) return conflict(command);
    } else if (inForce !== undefined && (!movedNothing(inForce) || command.type.startsWith("usage."))) {
      return conflict(command);
    }
    const reply = this.#judged(command, attempt);
    const others = outcomes.filter((one) => one !== same);
    this.#outcomes.set(command.referenceId, [...others, { command, reply }]);
    return { ...reply };
  }

  #judged(command: Single, attempt: number): Reply {
    const { type, referenceId } = command;
    const userId = userOf(command);
    const operation = operationOf(command, this.#outcomes.size + 1);
    const { totals, entries } = this.accounts.get(userId) ?? NO_ACCOUNT;
    const [expiredBefore, entriesBefore] = [totals.expired, entries.length];
    const openTier = "openTier" in command ? command.openTier : undefined;
    const opened =
      openTier != null && this.account(userId) === undefined && this.#opened(userId, openTier, operation);
    const known = this.account(userId);
    const [balanceBefore, expired] = [known?.balance ?? 0, (known?.totals.expired ?? 0) - expiredBefore];
    const decision =
      opened === undefined
        ? rejected("unknown_tier", { tier: openTier! })
        : this.#decided(command, operation);
    operation.code = decision.code;
    const isAwaited = decision.code === "payment_awaited" || isOfNoPayment(command, decision);
    const account = this.accounts.get(userId);
    return {
      ...VERSION,
      ...{ type, referenceId, userId, attempt, duplicate: false, message: textOf(decision, userId) },
      transactionId: operation.transactionId,
      unit: type === "usage.free_upload" ? "bytes" : "tokens",
      balanceBefore: isAwaited ? undefined : account && balanceBefore,
      balanceAfter: isAwaited ? undefined : account?.balance,
      held: account?.held || undefined,
      debt: account?.debt || undefined,
      expired: expired || undefined,
      recordedAt: iso(this.now()),
      sequence: account && account.entries.length > entriesBefore ? account.entries.length : undefined,
      openedTier: opened ? opened.tier.id : undefined,
      ...decision,
    } as Reply;
  }

  #decided(command: Single, operation: Operation): Decision {
    const [now, account] = [this.now(), this.accounts.get(userOf(command))];
    if (command.type === "account.open") {
      if (account !== undefined) return rejected("account_exists", { tier: account.tier.id });
      const opened = this.#opened(command.userId, command.tier, operation);
      if (opened === undefined) return rejected("unknown_tier", { tier: command.tier });
      return applied("account_opened", opened.tier.monthlyTokens, { tier: opened.tier.id });
    }
    const rule = (RULES as Record<string, (command: Single, of: Case) => Decision>)[command.type];
    if (rule === undefined) throw new Error(`FakeBillingClient does not know ${command.type}`);
    if (account === undefined) return rejected("account_not_found");
    const validUntil = "validUntil" in command ? command.validUntil : undefined;
    if (validUntil != null && now > Date.parse(validUntil))
      return rejected("too_late", { validUntil: iso(Date.parse(validUntil)) });
    return rule(command, { ledger: this, account, operation, now });
  }

  /** Open an account; undefined where the catalog has no such tier. */
  #opened(userId: string, id: string, operation: Operation): FakeAccount | undefined {
    const tier = this.tier(id);
    if (tier === undefined) return undefined;
    const opened = new FakeAccount(userId, tier, this.now());
    this.accounts.set(userId, opened);
    opened.grant(operation, 0, this.now());
    return opened;
  }
}

const NO_ACCOUNT = { totals: { expired: 0 }, entries: [] };

function operationOf(command: Single, number: number): Operation {
  const { type, referenceId, description, metadata } = command;
  const feature = "feature" in command ? command.feature : undefined;
  const about = {
    feature: feature ?? undefined,
    description: description ?? undefined,
    metadata: metadata ?? undefined,
  };
  return { transactionId: String(number), referenceId, type, code: "", ...about };
}

/** Return whether a command is the stored one: a rejected one may have other content with its next attempt. */
function isSame(stored: Single, command: Single, attempt: number): boolean {
  if (stored.type !== command.type || stored.userId !== command.userId) return false;
  return attempt > (stored.attempt ?? 1) || contentOf(stored) === contentOf(command);
}

function contentOf(command: Single): string {
  const fields = Object.entries(command);
  return JSON.stringify(fields.filter(([name, value]) => value != null && !BESIDE_CONTENT.has(name)).sort());
}

function movedNothing({ command, reply }: Outcome): boolean {
  return command.type.startsWith("usage.") && (reply.status === "rejected" || reply.amount === 0);
}

function amountBelowZero(command: Single): Reply | undefined {
  if (command.type === "credit.adjust") return undefined;
  const field = Object.entries(command).find(([name, value]) => AMOUNTS.has(name) && value < 0)?.[0];
  if (field === undefined) return undefined;
  const why = { status: "failed", code: "malformed", reason: "invalid_field", field } as const;
  return { ...headOf(command), ...why, message: `${field}: must be 0 or more` };
}

function conflict(command: Single): Reply {
  const message = `The reference '${command.referenceId}' names another operation. Nothing moved.`;
  const why = { status: "rejected", code: "reference_conflict", attempt: command.attempt ?? 1 } as const;
  return { ...headOf(command), ...why, message };
}

function headOf(command: Single) {
  const { type, referenceId } = command;
  return { ...VERSION, type, referenceId, userId: userOf(command), duplicate: false };
}

/** Return whether an event names no payment: its reply is about no account. */
function isOfNoPayment({ type }: Single, { code }: Decision): boolean {
  return type.startsWith("payment.") && code === "original_not_found";
}

/** Return the user of a command; the fake needs one also where the worker knows it by the payment. */
function userOf({ type, userId }: Single): string {
  if (userId == null) throw new Error(`FakeBillingClient needs a userId for ${type}`);
  return userId;
}

/** Texts that callers of the old service know; of the others the code is enough. */
function textOf({ code, required = 0, available = 0 }: Decision, userId: string): string {
  const amounts = `Required: ${formatTokens(required, { up: true })}, Available: ${formatTokens(available)}`;
  if (code === "insufficient_balance") return `Insufficient token balance. ${amounts}`;
  if (code === "free_upload_limit_exceeded") return `Free upload limit exceeded. ${amounts}`;
  return `${code.replaceAll("_", " ")} (user ${userId})`;
}

function halfEven(value: number): number {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
