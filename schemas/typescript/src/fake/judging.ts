// Judging of a command of the fake: whose account, what is due, what says its rule, and what is stored of it.

import { formatTokens, iso } from "../formats.js";
import type { ImportedPayment, Reply } from "../generated/contract.js";
import type { FakeAccount } from "./account.js";
import { Calendar, monthAt } from "./calendar.js";
import { mayTake, mayWaitFor, movedNothing } from "./contents.js";
import type { ImportedCommand, Outcome } from "./contents.js";
import { applied, rejected, timeOf } from "./decisions.js";
import type { Case, Decision, Of, Single } from "./decisions.js";
import { postDue, postFreed } from "./due.js";
import { frozenRefusal } from "./freezing.js";
import type { FreezingCommand } from "./freezing.js";
import { importAccount, importRefusal, presentPeriod } from "./imports.js";
import type { Import } from "./imports.js";
import { VERSION } from "./ledger.js";
import type { FakeLedger } from "./ledger.js";
import type { Operation } from "./lots.js";
import { compareBalance, rejectedPayment, writeNotices } from "./notices.js";
import type { News } from "./notices.js";
import { nameIn, namesOf } from "./names.js";
import { awaited } from "./payments.js";
import type { Payment } from "./payments.js";
import type { EventCommand } from "./reversals.js";
import { RULES } from "./rules.js";

/** Commands that open a missing account, where a tier is named or the catalog opens one by itself. */
const OPENING = new Set<Single["type"]>([
  ...(["deduct", "record", "free_upload", "reserve"] as const).map((name) => `usage.${name}` as const),
  ...["credit.bonus" as const, "credit.adjust" as const, "payment.succeeded" as const],
]);

/** Judge a command; one about a payment is of the payment's user, or waits for it.
 *
 * One whose `earlier` attempt is of another user, or of nobody, waits as well: an operation stays where it is. */
export function judged(command: Single, attempt: number, ledger: FakeLedger, earlier?: Outcome): Outcome {
  const judging: Judging = { command, attempt, operation: operationOf(command, ledger), ledger };
  if (nameIn(command) === undefined) return judgedOfUser(command.userId!, judging);
  const payment = paymentOf(command, ledger);
  const userId = earlier === undefined ? (payment ?? command).userId : earlier.reply.userId;
  if (payment !== undefined && payment.userId === userId)
    return judgedWith(ledger.accounts.get(userId)!, judging);
  return stored(judging, waiting(command, ledger), userId ?? undefined);
}

/** Decide about a command of an account with what is due posted, which the decision changes. */
export function decide(command: Single, of: Case): Decision {
  return tooLate(command, of.now) ?? frozenRefusal(command, of.account) ?? byItsRule(command, of);
}

/** A command that is being judged, and what its entries are to name. */
interface Judging<C = Single> {
  readonly command: C;
  readonly attempt: number;
  readonly operation: Operation;
  readonly ledger: FakeLedger;
}

function judgedWith(posted: FakeAccount, judging: Judging): Outcome {
  const { command, operation, ledger } = judging;
  const account = posted.branch(); // what is due is posted with an applied command; a refusal leaves nothing
  account.expiredNow = 0;
  postDue(account, operation);
  const balanceBefore = account.balance;
  const decision = decide(command, { ledger, account, operation, now: ledger.now() });
  if (decision.status === "applied" && !movedNothing(command, decision))
    return carriedOut(account, balanceBefore, decision, judging);
  account.expiredNow = 0; // the command that posts what has expired says so, once
  const balances = { balanceBefore, balanceAfter: balanceBefore, ...withheld(account) };
  return stored(judging, { ...balances, ...decision }, account.userId);
}

/** Keep an account as a command has changed it. */
function carriedOut(
  account: FakeAccount,
  balanceBefore: number,
  decision: Decision,
  judging: Judging,
): Outcome {
  const { operation, ledger } = judging;
  ledger.accounts.set(account.userId, account);
  postFreed(account, operation);
  const notices = writeNotices(account);
  const { balance: balanceAfter } = account;
  const { sequence } = account.entries.findLast((entry) => entry.operation === operation) ?? {};
  const told = { balanceBefore, balanceAfter, sequence, ...withheld(account), ...decision };
  return stored(judging, told, account.userId, notices);
}

function judgedOfUser(userId: string, judging: Judging): Outcome {
  const { command, ledger } = judging;
  const account = ledger.accounts.get(userId);
  if (account !== undefined) return judgedWith(account, judging);
  if (command.type === "account.open") return opened(command, judging);
  if (command.type === "account.import") return imported(command, judging);
  return judgedFirst(judging);
}

function byItsRule(command: Single, of: Case): Decision {
  if (command.type === "account.open" || command.type === "account.import")
    return rejected("account_exists", { tier: of.account.tier.id });
  const rule = RULES[command.type] as (command: Single, of: Case) => Decision;
  return rule(command, of);
}

/** Return the refusal of usage that its sender has given up by now. */
function tooLate(command: Single, now: number): Decision | undefined {
  const validUntil = "validUntil" in command ? timeOf(command.validUntil) : undefined;
  if (validUntil === undefined || now <= validUntil) return undefined;
  return rejected("too_late", { validUntil: iso(validUntil) });
}

// -- payments that commands name ---------------------------------------------------------------------------

/** Return the payment that a command is about; undefined where it is not there, or the names are refused. */
function paymentOf(command: Single, ledger: FakeLedger): Payment | undefined {
  const { payments } = ledger;
  if (command.type !== "payment.named") return payments.named(nameIn(command)!);
  const [owned] = payments.names.owned(namesOf(command));
  return owned === undefined || refusedNames(command, ledger) ? undefined : payments.named(owned);
}

/** Let an event, or more names, wait for their payment; not where another operation has the name. */
function waiting(command: Single, ledger: FakeLedger): Decision {
  if (command.type === "payment.named") return refusedNames(command, ledger) ?? taught(command, ledger);
  const name = nameIn(command)!;
  if (!mayWaitFor(ledger.outcome(name))) return rejected("original_not_found", { originalReferenceId: name });
  return awaited(command as EventCommand | FreezingCommand, { ledger, now: ledger.now() });
}

function taught(command: Of<"payment.named">, ledger: FakeLedger): Decision {
  ledger.payments.names.teach(namesOf(command));
  return applied("payment_named", 0, { originalReferenceId: command.originalReferenceId });
}

/** Return the refusal of names of two payments, or of what is no payment. */
function refusedNames(command: Of<"payment.named">, ledger: FakeLedger): Decision | undefined {
  const { payments } = ledger;
  const { originalReferenceId } = command;
  const [, other] = payments.names.owned(namesOf(command));
  if (other !== undefined) return rejected("reference_taken", { originalReferenceId: other });
  const isPayment = payments.named(originalReferenceId) !== undefined;
  if (isPayment || mayWaitFor(ledger.outcome(originalReferenceId))) return undefined;
  return rejected("original_not_found", { originalReferenceId });
}

// -- accounts that are opened ------------------------------------------------------------------------------

function opened({ userId, tier: id }: Of<"account.open">, judging: Judging): Outcome {
  const { ledger, operation } = judging;
  const [tier, now] = [ledger.tier(id), ledger.now()];
  if (tier === undefined) return stored(judging, rejected("unknown_tier", { tier: id }), userId);
  const account = ledger.newAccount(userId, tier, new Calendar(now, monthAt(now, now).end));
  const { monthlyTokens: tokens } = tier;
  const expiresAt = account.calendar.grantedUntil;
  account.periodGranted = tokens;
  if (tokens > 0) account.credit(operation, { source: "allocation", tokens, expiresAt });
  compareBalance(account); // an account that is opened below a mark has not fallen to it
  return carriedOut(account, 0, applied("account_opened", tokens, { tier: id }), judging);
}

/** Judge a command of a user without an account, which it may open; also where it is rejected then. */
function judgedFirst(judging: Judging): Outcome {
  const { command, ledger } = judging;
  const userId = command.userId!;
  const named = "openTier" in command ? command.openTier : undefined;
  const id = named ?? (OPENING.has(command.type) ? ledger.catalog.autoOpen : undefined);
  if (id === undefined) return stored(judging, rejected("account_not_found"), userId);
  const tier = ledger.tier(id);
  if (tier === undefined) return stored(judging, rejected("unknown_tier", { tier: id }), userId);
  const account = ledger.unopened(userId, tier);
  ledger.accounts.set(userId, account);
  const outcome = judgedWith(account, judging);
  return { ...outcome, reply: { ...outcome.reply, openedTier: id } };
}

/** Open an account as it was in another system, then post what has fallen due since. */
function imported(command: Import, judging: Judging): Outcome {
  const { operation, ledger } = judging;
  const { userId, anchor, openedAt, payments = [] } = command;
  const refused = importRefusal(command, ledger.catalog) ?? takenReference(payments, ledger);
  if (refused !== undefined) return stored(judging, refused, userId);
  const calendar = new Calendar(Date.parse(anchor), presentPeriod(command).end);
  const account = ledger.newAccount(userId, ledger.tier(command.tier)!, calendar, Date.parse(openedAt));
  const paid = payments.map(({ referenceId, paidAt: occurredAt }): ImportedCommand => {
    return { type: "payment.import", referenceId, userId, occurredAt };
  });
  const operations = paid.map((one) => operationOf(one, ledger));
  const decision = importAccount(account, command, operation, operations, ledger);
  const own = account.entries.find((entry) => entry.operation === operation);
  postDue(account, operation);
  paid.forEach((one, place) => {
    const about = { command: one, attempt: 1, operation: operations[place]!, ledger };
    const before = ledger.stored.get(one.referenceId) ?? [];
    ledger.stored.set(one.referenceId, [...before, importedPayment(payments[place]!, account, about)]);
  });
  return carriedOut(account, own?.balanceBefore ?? account.balance, decision, judging);
}

/** Return the refusal of payments of which a reference names an operation that moved something. */
function takenReference(payments: readonly ImportedPayment[], ledger: FakeLedger): Decision | undefined {
  const taken = payments.find(({ referenceId }) => {
    const known = ledger.outcome(referenceId);
    const isOther = known !== undefined && !mayTake(known, "payment.import");
    return isOther || ledger.payments.named(referenceId) !== undefined;
  });
  return taken && rejected("reference_taken", { originalReferenceId: taken.referenceId });
}

function importedPayment(
  { packageId, amountMinor, tokens, bonusTokens = 0 }: ImportedPayment,
  account: FakeAccount,
  about: Judging<ImportedCommand>,
): Outcome {
  const own = account.entries.filter((entry) => entry.operation === about.operation);
  const [balanceBefore, balanceAfter] = [own[0]!.balanceBefore, own.at(-1)!.balanceAfter];
  const left = own.reduce((sum, entry) => sum + entry.amount, 0);
  const bought = { packageId, amountMinor, baseTokens: tokens, bonusTokens };
  const told = { balanceBefore, balanceAfter, sequence: own.at(-1)!.sequence, ...bought };
  return stored(about, { ...told, ...applied("payment_imported", left) }, account.userId);
}

// -- what is stored ----------------------------------------------------------------------------------------

/** What some commands say about themselves. */
type About = Pick<Of<"usage.record">, "referenceId" | "description" | "metadata" | "feature"> & {
  readonly type: string;
  readonly meter?: string;
  readonly reason?: string;
};

function operationOf(command: Single | ImportedCommand, ledger: FakeLedger): Operation {
  const { type, referenceId, description, metadata, feature, meter, reason } = command as About;
  const occurredAt = timeOf(command.occurredAt);
  return {
    ...{ transactionId: ledger.number(), referenceId, type, code: "" },
    feature: feature ?? meter ?? undefined,
    description: description ?? (type === "credit.adjust" ? reason : undefined) ?? undefined,
    metadata: metadata ?? undefined,
    ...(occurredAt === undefined ? {} : { occurredAt }),
  };
}

function stored(
  { command, attempt, operation, ledger }: Judging<Outcome["command"]>,
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
    recordedAt: iso(ledger.now()),
    ...decision,
  };
  const notices = command.type === "payment.import" ? [] : [...written, ...rejectedPayment(command, reply)];
  return { command, operation, reply, notices, earlier: [] };
}

/** Return the tokens held, owed and expired that the caller should know; zeros are left out. */
function withheld({ held, debt, expiredNow }: FakeAccount) {
  return { held: held || undefined, debt: debt || undefined, expired: expiredNow || undefined };
}

/** Texts that callers of the old service know; of the others the code is enough. */
function textOf({ code, required = 0, available = 0 }: Decision, userId: string): string {
  const amounts = `Required: ${formatTokens(required, { up: true })}, Available: ${formatTokens(available)}`;
  if (code === "insufficient_balance") return `Insufficient token balance. ${amounts}`;
  if (code === "free_upload_limit_exceeded") return `Free upload limit exceeded. ${amounts}`;
  return `${code.replaceAll("_", " ")} (user ${userId})`;
}
