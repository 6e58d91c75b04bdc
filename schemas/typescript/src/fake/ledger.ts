// The ledger of the fake: accounts, and what is stored about each reference. The worker's own conversations
// are its test.

import { formatTokens, iso } from "../formats.js";
import type { CatalogTier, Command, Reply } from "../generated/contract.js";
import { FakeAccount } from "./account.js";
import { Calendar, monthAt } from "./calendar.js";
import type { FullCatalog, Package } from "./catalog.js";
import { contentOf, isOfSame, mayTake, mayWaitFor, movedNothing, requireSomebody } from "./contents.js";
import type { ImportedCommand, Outcome } from "./contents.js";
import { applied, rejected, timeOf } from "./decisions.js";
import type { Case, Decision, Of, Single } from "./decisions.js";
import { postDue, postFreed } from "./due.js";
import { frozenRefusal } from "./freezing.js";
import type { FreezingCommand } from "./freezing.js";
import { importAccount, importRefusal, presentPeriod } from "./imports.js";
import type { Import } from "./imports.js";
import type { Operation } from "./lots.js";
import { compareBalance, rejectedPayment, writeNotices } from "./notices.js";
import type { News } from "./notices.js";
import { FakePayments, awaited, nameIn, namesOf } from "./payments.js";
import type { EventCommand } from "./reversals.js";
import { RULES } from "./rules.js";
import type { Counted } from "./usage.js";

/** Version of the contract, which replies and notices carry. */
export const VERSION = { schemaVersion: 2 };

/** Highest step from one attempt to the next. */
const ATTEMPTS_MAX = 1_000;
const AMOUNTS = new Set(["tokens", "bytes", "quantity", "amountMinor", "refundedTotalMinor"]);
/** Commands that open a missing account, where a tier is named or the catalog opens one by itself. */
const OPENING = new Set<Single["type"]>([
  ...(["deduct", "record", "free_upload", "reserve"] as const).map((name) => `usage.${name}` as const),
  ...["credit.bonus" as const, "credit.adjust" as const, "payment.succeeded" as const],
]);

/** Outcomes and conflicts with the notices that go out beside the reply. */
export interface Answered {
  readonly reply: Reply;
  readonly notices: readonly News[];
}

export class FakeLedger {
  readonly accounts = new Map<string, FakeAccount>();
  readonly payments = new FakePayments();
  /** Tokens of usages that were given back, by the usages' references. */
  readonly refunded = new Map<string, number>();
  /** Free units that are left of usages. */
  readonly counted = new Map<string, Counted>();
  /** Outcomes by reference; the last is in force, and an earlier one is of usage that moved nothing. */
  readonly #outcomes = new Map<string, Outcome[]>();
  #operations = 0;

  constructor(
    readonly catalog: FullCatalog,
    readonly now: () => number,
  ) {}

  /** Return the outcome of a reference that is in force. */
  outcome(referenceId: string): Outcome | undefined {
    return this.#outcomes.get(referenceId)?.at(-1);
  }

  get outcomes(): Outcome[] {
    return [...this.#outcomes.values()].flatMap((outcomes) => outcomes.slice(-1));
  }

  /** Return the user's account; where a usage would open it and `isToUse`, as it would be then. */
  posted(userId: string, isToUse: boolean): FakeAccount | undefined {
    const { autoOpen } = this.catalog;
    const tier = isToUse && autoOpen !== undefined ? this.tier(autoOpen) : undefined;
    return this.accounts.get(userId) ?? (tier && this.#unopened(userId, tier));
  }

  /** Decide about a command of an account with what is due posted, which the decision changes. */
  decide(command: Single, account: FakeAccount, operation: Operation): Decision {
    const of = { ledger: this, account, operation, now: this.now() };
    return tooLate(command, of.now) ?? frozenRefusal(command, account) ?? decided(command, of);
  }

  tier(id: string): CatalogTier | undefined {
    return this.catalog.tiers.find((tier) => tier.id === id);
  }

  package({ packageId, packageIndex }: Of<"payment.succeeded">): Package | undefined {
    return this.catalog.packages.find(({ id, index }) =>
      packageId == null ? index === packageIndex : id === packageId,
    );
  }

  apply(command: Command): Answered {
    return command.type === "usage.batch" ? this.#batch(command) : this.#single(command);
  }

  #batch(batch: Extract<Command, { type: "usage.batch" }>): Answered {
    const answers = batch.items.map((item) => this.#single({ userId: batch.userId, ...item } as Single));
    const items = answers.map(({ reply: { schemaVersion: _, ...item } }) => item);
    const count = (status: string): number => items.filter((item) => item.status === status).length;
    const counts = { applied: count("applied"), rejected: count("rejected"), failed: count("failed") };
    const message = `Processed ${items.length} items: ${counts.applied} applied, ${counts.rejected} rejected`;
    const duplicate = items.every((item) => item.duplicate);
    const { type, referenceId, userId } = batch;
    const head = { ...VERSION, type, referenceId, userId: userId ?? undefined, message, duplicate };
    const reply: Reply = { ...head, status: "applied", code: "batch_processed", ...counts, items };
    return { reply, notices: answers.flatMap(({ notices }) => notices) };
  }

  // -- the reference ---------------------------------------------------------------------------------------

  /** The reference before anything that can change: the same operation gets its stored outcome again. */
  #single(command: Single): Answered {
    requireSomebody(command);
    const malformed = amountBelowZero(command);
    if (malformed !== undefined) return alone(malformed);
    const outcomes = this.#outcomes.get(command.referenceId) ?? [];
    const inForce = outcomes.at(-1);
    const attempt = command.attempt ?? 1;
    if (attempt > (inForce?.reply.attempt ?? 0) + ATTEMPTS_MAX) return alone(conflict(command));
    const own = outcomes.find((one) => isOfSame(one.command, command));
    const isAnew = own?.reply.status === "rejected" && attempt > own.reply.attempt!;
    if (own !== undefined && !isAnew) return this.#again(own, command, attempt);
    if (own !== inForce && (own !== undefined || !mayTake(inForce!, command.type)))
      return alone(conflict(command));
    const judged = this.#judged(command, attempt);
    const earlier = own === undefined ? [] : [...own.earlier, own];
    const others = outcomes.filter((one) => one !== own);
    this.#outcomes.set(command.referenceId, [...others, { ...judged, earlier }]);
    if (isOpening(judged.reply)) this.#tryUnopened(command.userId!);
    return { reply: { ...judged.reply }, notices: judged.notices };
  }

  /** Return the stored outcome of a command that came before, or of its attempt where that was another one. */
  #again(own: Outcome, command: Single, attempt: number): Answered {
    const isSame = (stored: Outcome): boolean => contentOf(stored.command, this) === contentOf(command, this);
    const earlier = own.earlier.find((one) => one.reply.attempt === attempt);
    const isAppliedAnew =
      own.reply.status === "applied" && [own, earlier].every((one) => !one || isSame(one));
    const stored = isAppliedAnew ? own : (earlier ?? own);
    if (!isSame(stored)) return alone(conflict(command));
    if (stored.reply.status === "applied") this.#learnNames(command);
    return { reply: { ...stored.reply, duplicate: true }, notices: stored.notices };
  }

  /** Judge the payments anew that came before the account of their user was open. */
  #tryUnopened(userId: string): void {
    const isEarly = ({ command, reply }: Outcome): boolean =>
      command.type === "payment.succeeded" && command.userId === userId && reply.code === "account_not_found";
    const order = ({ reply }: Outcome): string => `${reply.recordedAt} ${reply.referenceId}`;
    const early = this.outcomes.filter(isEarly);
    for (const stored of early.sort((one, other) => (order(one) < order(other) ? -1 : 1))) {
      const attempt = stored.reply.attempt! + 1;
      const command = { ...(stored.command as Of<"payment.succeeded">), attempt };
      const anew = { ...this.#judged(command, attempt), earlier: [...stored.earlier, stored] };
      this.#outcomes.get(command.referenceId)!.splice(-1, 1, anew);
    }
  }

  /** Let a payment that comes again give it names that nobody has. */
  #learnNames(command: Single): void {
    if (command.type !== "payment.succeeded") return;
    const payment = this.payments.named(command.referenceId);
    if (payment !== undefined) this.payments.bind(payment, namesOf(command));
  }

  // -- the account -----------------------------------------------------------------------------------------

  /** Judge a command; one about a payment is of the payment's user, or waits for it. */
  #judged(command: Single, attempt: number): Outcome {
    const operation = this.#operationOf(command);
    const judging: Judging = { command, attempt, operation };
    const name = nameIn(command);
    const payment = name === undefined ? undefined : this.payments.named(name);
    if (name !== undefined && payment === undefined)
      return this.#stored(judging, this.#awaited(command, name), command.userId ?? undefined);
    const userId = payment?.userId ?? command.userId!;
    const account = this.accounts.get(userId);
    if (account !== undefined) return this.#judgedWith(account, judging);
    if (command.type === "account.open") return this.#opened(command, judging);
    if (command.type === "account.import") return this.#imported(command, judging);
    return this.#judgedFirst(judging);
  }

  #judgedWith(stored: FakeAccount, judging: Judging): Outcome {
    const { command, operation } = judging;
    const account = stored.branch(); // what is due is posted with an applied command; a refusal leaves nothing
    account.expiredNow = 0;
    postDue(account, operation);
    const balanceBefore = account.balance;
    const decision = this.decide(command, account, operation);
    if (decision.status === "rejected" || movedNothing(command, decision)) {
      account.expiredNow = 0; // the command that posts what has expired says so, once
      const { userId } = account;
      const balances = { balanceBefore, balanceAfter: balanceBefore, ...withheld(account) };
      return this.#stored(judging, { ...balances, ...decision }, userId);
    }
    return this.#carriedOut(account, balanceBefore, decision, judging);
  }

  /** Keep an account as a command has changed it. */
  #carriedOut(account: FakeAccount, balanceBefore: number, decision: Decision, judging: Judging): Outcome {
    const { operation } = judging;
    this.accounts.set(account.userId, account);
    postFreed(account, operation);
    const notices = writeNotices(account);
    const { balance: balanceAfter } = account;
    const { sequence } = account.entries.findLast((entry) => entry.operation === operation) ?? {};
    const told = { balanceBefore, balanceAfter, sequence, ...withheld(account), ...decision };
    return this.#stored(judging, told, account.userId, notices);
  }

  #opened(command: Of<"account.open">, judging: Judging): Outcome {
    const { userId, tier: id } = command;
    const [tier, now] = [this.tier(id), this.now()];
    if (tier === undefined) return this.#stored(judging, rejected("unknown_tier", { tier: id }), userId);
    const account = this.#account(userId, tier, new Calendar(now, monthAt(now, now).end));
    const { monthlyTokens: tokens } = tier;
    const expiresAt = account.calendar.grantedUntil;
    account.periodGranted = tokens;
    if (tokens > 0) account.credit(judging.operation, { source: "allocation", tokens, expiresAt });
    compareBalance(account); // an account that is opened below a mark has not fallen to it
    return this.#carriedOut(account, 0, applied("account_opened", tokens, { tier: id }), judging);
  }

  /** Judge a command of a user without an account, which it may open; also where it is rejected then. */
  #judgedFirst(judging: Judging): Outcome {
    const { command } = judging;
    const userId = command.userId!;
    const named = "openTier" in command ? command.openTier : undefined;
    const id = named ?? (OPENING.has(command.type) ? this.catalog.autoOpen : undefined);
    if (id === undefined) return this.#stored(judging, rejected("account_not_found"), userId);
    const tier = this.tier(id);
    if (tier === undefined) return this.#stored(judging, rejected("unknown_tier", { tier: id }), userId);
    const account = this.#unopened(userId, tier);
    this.accounts.set(userId, account);
    const outcome = this.#judgedWith(account, judging);
    return { ...outcome, reply: { ...outcome.reply, openedTier: id } };
  }

  /** Open an account as it was in another system, then post what has fallen due since. */
  #imported(command: Import, judging: Judging): Outcome {
    const { userId, anchor, openedAt, payments = [] } = command;
    const refused = importRefusal(command, this.catalog) ?? this.#takenReference(payments);
    if (refused !== undefined) return this.#stored(judging, refused, userId);
    const { operation } = judging;
    const calendar = new Calendar(Date.parse(anchor), presentPeriod(command).end);
    const account = this.#account(userId, this.tier(command.tier)!, calendar, Date.parse(openedAt));
    const paid = payments.map(({ referenceId, paidAt: occurredAt }): ImportedCommand => {
      return { type: "payment.import", referenceId, userId, occurredAt };
    });
    const operations = paid.map((one) => this.#operationOf(one));
    const decision = importAccount(account, command, operation, operations, this);
    const own = account.entries.find((entry) => entry.operation === operation);
    postDue(account, operation);
    paid.forEach((one, place) => {
      const outcome = this.#importedPayment(one, payments[place]!, operations[place]!, account);
      this.#outcomes.set(one.referenceId, [...(this.#outcomes.get(one.referenceId) ?? []), outcome]);
    });
    return this.#carriedOut(account, own?.balanceBefore ?? account.balance, decision, judging);
  }

  /** Return the refusal of payments of which a reference names an operation that moved something. */
  #takenReference(payments: NonNullable<Import["payments"]>): Decision | undefined {
    const taken = payments.find(({ referenceId }) => {
      const stored = this.outcome(referenceId);
      const isOther = stored !== undefined && !mayTake(stored, "payment.import");
      return isOther || this.payments.named(referenceId) !== undefined;
    });
    return taken && rejected("reference_taken", { originalReferenceId: taken.referenceId });
  }

  #importedPayment(
    command: ImportedCommand,
    { packageId, amountMinor, tokens, bonusTokens = 0 }: NonNullable<Import["payments"]>[number],
    operation: Operation,
    account: FakeAccount,
  ): Outcome {
    const own = account.entries.filter((entry) => entry.operation === operation);
    const [balanceBefore, balanceAfter] = [own[0]!.balanceBefore, own.at(-1)!.balanceAfter];
    const left = own.reduce((sum, entry) => sum + entry.amount, 0);
    const bought = { packageId, amountMinor, baseTokens: tokens, bonusTokens };
    const told = { balanceBefore, balanceAfter, sequence: own.at(-1)!.sequence, ...bought };
    const decision = { ...told, ...applied("payment_imported", left) };
    return this.#stored({ command, attempt: 1, operation }, decision, command.userId);
  }

  /** Return an account that a usage opens: its first period is due at once. */
  #unopened(userId: string, tier: CatalogTier): FakeAccount {
    return this.#account(userId, tier, new Calendar(this.now(), this.now()));
  }

  #account(userId: string, tier: CatalogTier, calendar: Calendar, openedAt = this.now()): FakeAccount {
    return new FakeAccount(userId, tier, calendar, this.catalog, this.now, openedAt);
  }

  /** Let an event wait for its payment, unless another operation has the name. */
  #awaited(command: Single, name: string): Decision {
    if (!mayWaitFor(this.outcome(name))) return rejected("original_not_found", { originalReferenceId: name });
    return awaited(command as EventCommand | FreezingCommand, { ledger: this, now: this.now() });
  }

  // -- what is stored --------------------------------------------------------------------------------------

  #operationOf(command: Single | ImportedCommand): Operation {
    const { type, referenceId, description, metadata, feature, meter, reason } = command as About;
    const occurredAt = timeOf(command.occurredAt);
    this.#operations += 1;
    return {
      ...{ transactionId: String(this.#operations), referenceId, type, code: "" },
      feature: feature ?? meter ?? undefined,
      description: description ?? (type === "credit.adjust" ? reason : undefined) ?? undefined,
      metadata: metadata ?? undefined,
      ...(occurredAt === undefined ? {} : { occurredAt }),
    };
  }

  #stored(
    { command, attempt, operation }: Judging<Outcome["command"]>,
    decision: Decision,
    userId: string | undefined,
    written: readonly News[] = [],
  ): Outcome {
    const { type, referenceId } = command;
    operation.code = decision.code;
    const reply: Reply = {
      ...VERSION,
      ...{ type, referenceId, userId, attempt, duplicate: false },
      message: textOf(decision, userId ?? "unknown"),
      transactionId: operation.transactionId,
      unit: type === "usage.free_upload" ? "bytes" : "tokens",
      recordedAt: iso(this.now()),
      ...decision,
    };
    const notices = command.type === "payment.import" ? [] : [...written, ...rejectedPayment(command, reply)];
    return { command, operation, reply, notices, earlier: [] };
  }
}

/** A command that is being judged, and what its entries are to name. */
interface Judging<C = Single> {
  readonly command: C;
  readonly attempt: number;
  readonly operation: Operation;
}

/** What some commands say about themselves. */
type About = Pick<Of<"usage.record">, "referenceId" | "description" | "metadata" | "feature"> & {
  readonly type: string;
  readonly meter?: string;
  readonly reason?: string;
};

function decided(command: Single, of: Case): Decision {
  if (command.type === "account.open" || command.type === "account.import")
    return rejected("account_exists", { tier: of.account.tier.id });
  const rule = RULES[command.type as keyof typeof RULES] as (command: unknown, of: Case) => Decision;
  return rule(command, of);
}

/** Return the refusal of usage that its sender has given up by now. */
function tooLate(command: Single, now: number): Decision | undefined {
  const validUntil = "validUntil" in command ? timeOf(command.validUntil) : undefined;
  if (validUntil === undefined || now <= validUntil) return undefined;
  return rejected("too_late", { validUntil: iso(validUntil) });
}

/** Return the tokens held, owed and expired that the caller should know; zeros are left out. */
function withheld({ held, debt, expiredNow }: FakeAccount) {
  return { held: held || undefined, debt: debt || undefined, expired: expiredNow || undefined };
}

function isOpening({ code, status, openedTier }: Reply): boolean {
  return (status === "applied" && /^account_(opened|imported)$/.test(code)) || openedTier !== undefined;
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
  return { ...VERSION, type, referenceId, userId: command.userId ?? undefined, duplicate: false };
}

function alone(reply: Reply): Answered {
  return { reply, notices: [] };
}

/** Texts that callers of the old service know; of the others the code is enough. */
function textOf({ code, required = 0, available = 0 }: Decision, userId: string): string {
  const amounts = `Required: ${formatTokens(required, { up: true })}, Available: ${formatTokens(available)}`;
  if (code === "insufficient_balance") return `Insufficient token balance. ${amounts}`;
  if (code === "free_upload_limit_exceeded") return `Free upload limit exceeded. ${amounts}`;
  return `${code.replaceAll("_", " ")} (user ${userId})`;
}
