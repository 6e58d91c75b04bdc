// The reference before anything that can change: the same operation gets its stored outcome again.

import type { Command, Reply } from "../generated/contract.js";
import { contentOf, isOfSame, mayTake, requireSomebody } from "./contents.js";
import type { Outcome } from "./contents.js";
import type { Of, Single } from "./decisions.js";
import { idFaultIn } from "./identifiers.js";
import { sumsOff } from "./imports.js";
import { judged } from "./judging.js";
import { VERSION } from "./ledger.js";
import type { FakeLedger } from "./ledger.js";
import type { News } from "./notices.js";

/** Highest step from one attempt to the next. */
const ATTEMPTS_MAX = 1_000;
const AMOUNTS = new Set(["tokens", "bytes", "quantity", "amountMinor", "refundedTotalMinor"]);

/** A reply, and the notices that go out beside it. */
export interface Answered {
  readonly reply: Reply;
  readonly notices: readonly News[];
}

export function apply(command: Command, ledger: FakeLedger): Answered {
  return command.type === "usage.batch" ? applyBatch(command, ledger) : applySingle(command, ledger);
}

function applyBatch(batch: Extract<Command, { type: "usage.batch" }>, ledger: FakeLedger): Answered {
  const refused = unrulyId(batch);
  if (refused !== undefined) return alone(refused);
  const ofBatch = batch.items.map((item) => ({ userId: batch.userId, ...item }) as Single);
  const answers = ofBatch.map((item, index) => applySingle(item, ledger, `items.${index}.`));
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

function applySingle(command: Single, ledger: FakeLedger, place = ""): Answered {
  requireSomebody(command);
  const refused = unrulyId(command, place) ?? malformed(command);
  if (refused !== undefined) return alone(refused);
  const outcomes = ledger.stored.get(command.referenceId) ?? [];
  const inForce = outcomes.at(-1);
  const attempt = command.attempt ?? 1;
  if (attempt > (inForce?.reply.attempt ?? 0) + ATTEMPTS_MAX) return alone(conflict(command));
  const own = outcomes.find((one) => isOfSame(one.command, command));
  const isAnew = own?.reply.status === "rejected" && attempt > own.reply.attempt!;
  if (own !== undefined && !isAnew) return again(own, command, attempt, ledger);
  if (own !== inForce && (own !== undefined || !mayTake(inForce!, command.type)))
    return alone(conflict(command));
  const outcome = judged(command, attempt, ledger, own);
  const earlier = own === undefined ? [] : [...own.earlier, own];
  const others = outcomes.filter((one) => one !== own);
  ledger.stored.set(command.referenceId, [...others, { ...outcome, earlier }]);
  if (isOpening(outcome.reply)) tryUnopened(command.userId!, ledger);
  return { reply: { ...outcome.reply }, notices: outcome.notices };
}

/** Return the stored outcome of a command that came before, or of its attempt where that was another one. */
function again(own: Outcome, command: Single, attempt: number, ledger: FakeLedger): Answered {
  const isSame = (stored: Outcome): boolean =>
    contentOf(stored.command, ledger) === contentOf(command, ledger);
  const earlier = own.earlier.find((one) => one.reply.attempt === attempt);
  const isAppliedAnew = own.reply.status === "applied" && [own, earlier].every((one) => !one || isSame(one));
  const stored = isAppliedAnew ? own : (earlier ?? own);
  if (!isSame(stored)) return alone(conflict(command));
  ledger.payments.names.learn(command, stored.reply);
  return { reply: { ...stored.reply, duplicate: true }, notices: stored.notices };
}

/** Judge the payments anew that came before the account of their user was open. */
function tryUnopened(userId: string, ledger: FakeLedger): void {
  const isEarly = ({ command, reply }: Outcome): boolean =>
    command.type === "payment.succeeded" && command.userId === userId && reply.code === "account_not_found";
  const order = ({ reply }: Outcome): string => `${reply.recordedAt} ${reply.referenceId}`;
  const early = ledger.outcomes.filter(isEarly);
  for (const stored of early.sort((one, other) => (order(one) < order(other) ? -1 : 1))) {
    const attempt = stored.reply.attempt! + 1;
    const command = { ...(stored.command as Of<"payment.succeeded">), attempt };
    const anew = { ...judged(command, attempt, ledger), earlier: [...stored.earlier, stored] };
    const others = ledger.stored.get(command.referenceId)!.slice(0, -1);
    ledger.stored.set(command.referenceId, [...others, anew]);
  }
}

function isOpening({ code, status, openedTier }: Reply): boolean {
  return (status === "applied" && /^account_(opened|imported)$/.test(code)) || openedTier !== undefined;
}

/** Return the reply to a command that no type forbids, and that the worker doesn't take. */
function malformed(command: Single): Reply | undefined {
  const why = { status: "failed", code: "malformed", reason: "invalid_field" } as const;
  const off = command.type === "account.import" ? sumsOff(command) : undefined;
  if (off !== undefined) return { ...headOf(command), ...why, message: off };
  if (command.type === "credit.adjust") return undefined;
  const field = Object.entries(command).find(([name, value]) => AMOUNTS.has(name) && value < 0)?.[0];
  if (field === undefined) return undefined;
  return { ...headOf(command), ...why, field, message: `${field}: must be 0 or more` };
}

/** Return the reply to a command with an id that could pass for another one. */
function unrulyId(command: Command, place = ""): Reply | undefined {
  const fault = idFaultIn(command, place);
  return fault && { ...headOf(command), status: "failed", code: "malformed", reason: "invalid_id", ...fault };
}

function conflict(command: Single): Reply {
  const message = `The reference '${command.referenceId}' names another operation. Nothing moved.`;
  const why = { status: "rejected", code: "reference_conflict", attempt: command.attempt ?? 1 } as const;
  return { ...headOf(command), ...why, message };
}

function headOf(command: Command) {
  const { type, referenceId } = command;
  return { ...VERSION, type, referenceId, userId: command.userId ?? undefined, duplicate: false };
}

function alone(reply: Reply): Answered {
  return { reply, notices: [] };
}
