// The ledger of the fake: accounts, and what is stored about each reference. The worker's own conversations
// are its test.

import { FakeAccount } from "./fake-account.js";
import type { Operation } from "./fake-account.js";
import { applied, rejected, timeOf } from "./fake-decisions.js";
import type { Case, Decision, Of, Single } from "./fake-decisions.js";
import { FakePayments, awaited, nameIn, namesOf } from "./fake-payments.js";
import type { EventCommand, FreezingCommand } from "./fake-payments.js";
import { RULES, frozenRefusal } from "./fake-rules.js";
import { formatTokens, iso } from "./formats.js";
import type { CatalogAnswer, CatalogPackage, CatalogTier, Command, Reply } from "./generated/contract.js";

export type Catalog = Pick<CatalogAnswer, "packages" | "tiers" | "meters">;

/** Version of the contract, which replies and notices carry. */
export const VERSION = { schemaVersion: 2 };

/** Highest step from one attempt to the next. */
const ATTEMPTS_MAX = 1_000;
/** Fields that move nothing: two messages that differ in these alone are one operation. */
const BESIDE_CONTENT = new Set(
  "attempt occurredAt metadata description provider reason actor replies validUntil alsoKnownAs packageIndex".split(
    " ",
  ),
);
const BESIDE_CONTENT_OF_EVENTS = new Set([...BESIDE_CONTENT, "userId"]);
const AMOUNTS = new Set(["tokens", "bytes", "quantity", "amountMinor", "refundedTotalMinor"]);
const PAYMENT = "payment.succeeded";

interface Outcome {
  readonly command: Single;
  readonly reply: Reply;
  /** Rejections that a higher attempt replaced. */
  readonly earlier: readonly Outcome[];
}

export interface Price {
  readonly quota: string;
  readonly tokens: number;
  readonly freeQuantity: number;
  readonly chargedQuantity: number;
}

export class FakeLedger {
  readonly accounts = new Map<string, FakeAccount>();
  readonly payments = new FakePayments();
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
    account?.postDue(due);
    return account;
  }

  tier(id: string): CatalogTier | undefined {
    return this.catalog.tiers.find((tier) => tier.id === id);
  }

  package({ packageId, packageIndex }: Of<"payment.succeeded">): CatalogPackage | undefined {
    return this.catalog.packages.find(({ id, index }) =>
      packageId == null ? index === packageIndex : id === packageId,
    );
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
    requireModelled(command);
    const malformed = amountBelowZero(command);
    if (malformed !== undefined) return malformed;
    const outcomes = this.#outcomes.get(command.referenceId) ?? [];
    const inForce = outcomes.at(-1);
    const attempt = command.attempt ?? 1;
    if (attempt > (inForce?.reply.attempt ?? 0) + ATTEMPTS_MAX) return conflict(command);
    const own = outcomes.find((one) => isOfSame(one.command, command));
    const isAnew = own?.reply.status === "rejected" && attempt > own.reply.attempt!;
    if (own !== undefined && !isAnew) return this.#again(own, command, attempt);
    if (own !== inForce && (own !== undefined || !mayTake(inForce!, command))) return conflict(command);
    const reply = this.#judged(command, attempt);
    const earlier = own === undefined ? [] : [...own.earlier, own];
    const others = outcomes.filter((one) => one !== own);
    this.#outcomes.set(command.referenceId, [...others, { command, reply, earlier }]);
    if (reply.code === "account_opened" || reply.openedTier !== undefined) this.#tryUnopened(command.userId!);
    return { ...reply };
  }

  /** Return the stored outcome of a command that came before, or of its attempt where that was another one. */
  #again(own: Outcome, command: Single, attempt: number): Reply {
    const isSame = (stored: Outcome): boolean => this.#contentOf(stored.command) === this.#contentOf(command);
    const earlier = own.earlier.find((one) => one.reply.attempt === attempt);
    const isAppliedAnew =
      own.reply.status === "applied" && [own, earlier].every((one) => !one || isSame(one));
    const stored = isAppliedAnew ? own : (earlier ?? own);
    if (!isSame(stored)) return conflict(command);
    this.#learnNames(command, stored.reply);
    return { ...stored.reply, duplicate: true };
  }

  /** Judge the payments anew that came before the account of their user was open. */
  #tryUnopened(userId: string): void {
    const isEarly = ({ command, reply }: Outcome): boolean =>
      command.type === "payment.succeeded" && command.userId === userId && reply.code === "account_not_found";
    const early = [...this.#outcomes.values()].flatMap((outcomes) => outcomes.slice(-1)).filter(isEarly);
    const order = ({ reply }: Outcome): string => `${reply.recordedAt} ${reply.referenceId}`;
    for (const stored of early.sort((one, other) => (order(one) < order(other) ? -1 : 1))) {
      const attempt = stored.reply.attempt! + 1;
      const command = { ...stored.command, attempt };
      const anew = { command, reply: this.#judged(command, attempt), earlier: [...stored.earlier, stored] };
      this.#outcomes.get(command.referenceId)!.splice(-1, 1, anew);
    }
  }

  /** Let a copy of a payment, or of more names for one, give it those that nobody has. */
  #learnNames(command: Single, { status, code }: Reply): void {
    if (command.type === "payment.named" && status === "applied") this.#teach(namesOf(command));
    if (command.type !== PAYMENT) return;
    const payment = this.payments.named(command.referenceId);
    if (status === "applied" && payment !== undefined) this.payments.bind(payment, namesOf(command));
    else if (status === "rejected" && code !== "reference_taken" && payment === undefined)
      this.payments.join(namesOf(command));
  }

  /** Give the names that nobody has to the payment of the others; without one they are the same. */
  #teach(names: readonly string[]): void {
    const owners = this.payments.owners(names);
    if (owners.length === 1) this.payments.bind(this.payments.named(owners[0]!)!, names);
    else if (owners.length === 0) this.payments.join(names);
  }

  /** Return the payment that a command is about, where it is there. */
  #paymentOf(command: Single) {
    const name = nameIn(command);
    if (name === undefined) return undefined;
    const found = this.payments.named(name);
    if (command.type !== "payment.named") return found;
    const owners = this.payments.owners(namesOf(command));
    const isOther = found === undefined && this.#isOther(name);
    return owners.length === 1 && !isOther ? this.payments.named(owners[0]!) : undefined;
  }

  /** Judge a command; one about a payment is of the payment's user, or waits for it. */
  #judged(command: Single, attempt: number): Reply {
    const { type, referenceId } = command;
    const operation = operationOf(command, this.#outcomes.size + 1);
    const name = nameIn(command);
    const payment = this.#paymentOf(command);
    const userId = payment?.userId ?? command.userId ?? undefined;
    const isOfAccount = name === undefined || payment !== undefined;
    const entriesBefore = this.#accountOf(userId)?.entries.length ?? 0;
    const openTier = "openTier" in command && isOfAccount ? command.openTier : undefined;
    const opened =
      openTier != null && this.account(userId!) === undefined && this.#opened(userId!, openTier, operation);
    const known = isOfAccount && userId !== undefined ? this.account(userId) : undefined;
    const balanceBefore = known?.balance ?? 0;
    const decision =
      opened === undefined
        ? rejected("unknown_tier", { tier: openTier! })
        : this.#decided(command, known, operation);
    operation.code = decision.code;
    const account = isOfAccount ? this.#accountOf(userId) : undefined;
    const isTold = decision.status === "applied" && !movedNothing(command, decision);
    return {
      ...VERSION,
      ...{ type, referenceId, userId, attempt, duplicate: false },
      message: textOf(decision, userId ?? "unknown"),
      transactionId: operation.transactionId,
      unit: type === "usage.free_upload" ? "bytes" : "tokens",
      balanceBefore: account && balanceBefore,
      balanceAfter: account?.balance,
      held: account?.held || undefined,
      debt: account?.debt || undefined,
      expired: (isTold && account?.tellExpired()) || undefined,
      recordedAt: iso(this.now()),
      sequence: account && account.entries.length > entriesBefore ? account.entries.length : undefined,
      openedTier: opened ? opened.tier.id : undefined,
      ...decision,
    } as Reply;
  }

  #accountOf(userId: string | undefined): FakeAccount | undefined {
    return userId === undefined ? undefined : this.accounts.get(userId);
  }

  #decided(command: Single, account: FakeAccount | undefined, operation: Operation): Decision {
    const now = this.now();
    if (command.type === "account.open") {
      if (account !== undefined) return rejected("account_exists", { tier: account.tier.id });
      const opened = this.#opened(command.userId, command.tier, operation);
      if (opened === undefined) return rejected("unknown_tier", { tier: command.tier });
      return applied("account_opened", opened.tier.monthlyTokens, { tier: opened.tier.id });
    }
    const rule = (RULES as Record<string, (command: Single, of: Case) => Decision>)[command.type]!;
    const name = nameIn(command);
    if (name !== undefined && this.#paymentOf(command) === undefined) return this.#awaited(command, name);
    if (account === undefined) return rejected("account_not_found");
    const validUntil = "validUntil" in command ? command.validUntil : undefined;
    if (validUntil != null && now > Date.parse(validUntil))
      return rejected("too_late", { validUntil: iso(Date.parse(validUntil)) });
    const occurredAt = timeOf(command.occurredAt);
    const refused = frozenRefusal(command, account);
    const decision = refused ?? rule(command, { ledger: this, account, operation, now, occurredAt });
    const takesUp = command.type === "subscription.change" || command.type === "subscription.renew";
    if (takesUp && decision.status === "applied" && occurredAt !== undefined) {
      const isScheduled = "effectiveAt" in command && command.effectiveAt === "period_end";
      account.takenUp.push({ at: occurredAt, isScheduled });
    }
    return decision;
  }

  /** Let an event wait for its payment, unless another operation has the name. */
  #awaited(command: Single, name: string): Decision {
    if (command.type === "payment.named") {
      const [, other] = this.payments.owners(namesOf(command));
      if (other !== undefined) return rejected("reference_taken", { originalReferenceId: other });
    }
    const isFree = this.payments.named(name) === undefined;
    if (isFree && this.#isOther(name)) return rejected("original_not_found", { originalReferenceId: name });
    if (command.type === "payment.named") {
      this.#teach(namesOf(command));
      return applied("payment_named", 0, { originalReferenceId: name });
    }
    return awaited(command as EventCommand | FreezingCommand, { ledger: this, now: this.now() });
  }

  /** Return whether a name is the reference of another operation. */
  #isOther(name: string): boolean {
    const original = this.#outcomes.get(name)?.at(-1);
    return (
      original?.reply.status === "applied" &&
      !movedNothing(original.command, original.reply) &&
      original.command.type !== PAYMENT
    );
  }

  /** Return the text of what moves the ledger; a package that is named by its position has its id there. */
  #contentOf(command: Single): string {
    const beside = isAboutPayment(command) ? BESIDE_CONTENT_OF_EVENTS : BESIDE_CONTENT;
    const isName = (name: string): boolean => name === "alsoKnownAs" && command.type === "payment.named";
    const kept = Object.entries(command).filter(([name]) => !beside.has(name) || isName(name));
    const packageId =
      command.type === PAYMENT ? (this.package(command)?.id ?? command.packageIndex) : undefined;
    return JSON.stringify(sorted({ ...Object.fromEntries(kept), packageId }));
  }

  /** Open an account; undefined where the catalog has no such tier. */
  #opened(userId: string, id: string, operation: Operation): FakeAccount | undefined {
    const tier = this.tier(id);
    if (tier === undefined) return undefined;
    const opened = new FakeAccount(userId, tier, this.now);
    this.accounts.set(userId, opened);
    opened.open(operation);
    return opened;
  }
}

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

/** Return whether usage was rejected, or took neither tokens nor free units and concerns no hold. */
function movedNothing({ type }: Single, { status, code, amount, freeQuantity }: Reply | Decision): boolean {
  if (!type.startsWith("usage.")) return false;
  return status === "rejected" || (amount === 0 && !freeQuantity && MAY_MOVE_NOTHING.has(code));
}

const MAY_MOVE_NOTHING = new Set<string>(["tokens_deducted", "free_upload_counted", "usage_recorded"]);

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
  return { ...VERSION, type, referenceId, userId: command.userId ?? undefined, duplicate: false };
}

/** Return whether a payment knows the user of such commands, who is then no part of what they are. */
function isAboutPayment({ type }: Single): boolean {
  return type !== PAYMENT && (type.startsWith("payment.") || type.endsWith("freeze"));
}

/** Return whether two commands are of one type and user: the same operation, or an attempt at it. */
function isOfSame(stored: Single, command: Single): boolean {
  return stored.type === command.type && (isAboutPayment(command) || stored.userId === command.userId);
}

/** Return whether a command takes the reference of another outcome: of usage that moved nothing. */
function mayTake(stored: Outcome, command: Single): boolean {
  return movedNothing(stored.command, stored.reply) && !command.type.startsWith("usage.");
}

/** Fail loudly where a command asks for what the fake does not know, or names nobody. */
function requireModelled(command: Single): void {
  if (command.type !== "account.open" && !(command.type in RULES))
    throw new Error(`FakeBillingClient does not know ${command.type}`);
  if (command.userId == null && nameIn(command) === undefined)
    throw new Error(`FakeBillingClient needs a userId, or the name of a payment, for ${command.type}`);
}

/** Return a value with the fields of its objects in one order, and without those that are absent. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const given = Object.entries(value).filter(([, field]) => field != null);
  return given.map(([name, field]) => [name, sorted(field)]).sort();
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
