// What commands of the fake are: the same operation, an attempt at it, or another one under its reference.

import type { Reply } from "../generated/contract.js";
import type { Decision, Single } from "./decisions.js";
import type { FakeLedger } from "./ledger.js";
import type { Operation } from "./lots.js";
import type { News } from "./notices.js";
import { nameIn } from "./names.js";

/** The command of a payment that came with an imported account; no message has its type. */
export interface ImportedCommand {
  readonly type: "payment.import";
  readonly referenceId: string;
  readonly userId: string;
  readonly occurredAt: string;
}

/** What is stored about a reference. */
export interface Outcome {
  readonly command: Single | ImportedCommand;
  readonly operation: Operation;
  readonly reply: Reply;
  readonly notices: readonly News[];
  /** Rejections that a higher attempt replaced. */
  readonly earlier: readonly Outcome[];
}

/** Fields that move nothing: two messages that differ in these alone are one operation. */
const BESIDE_CONTENT = new Set(
  "attempt occurredAt metadata description provider reason actor replies validUntil alsoKnownAs packageIndex".split(
    " ",
  ),
);
const BESIDE_CONTENT_OF_EVENTS = new Set([...BESIDE_CONTENT, "userId"]);
const BESIDE_CONTENT_OF_NAMES = new Set([...BESIDE_CONTENT_OF_EVENTS].filter((one) => one !== "alsoKnownAs"));
const PAYMENTS = new Set<string>(["payment.succeeded", "payment.import"]);

/** Return the text of what moves the ledger; a package that is named by its position has its id there. */
export function contentOf(command: Outcome["command"], ledger: FakeLedger): string {
  const beside = besideContent(command);
  const kept = Object.entries(command).filter(([name]) => !beside.has(name));
  const packageId =
    command.type === "payment.succeeded" ? (ledger.package(command)?.id ?? command.packageIndex) : undefined;
  return JSON.stringify(sorted({ ...Object.fromEntries(kept), packageId }));
}

/** Return the fields of a command that move nothing; the names that one gives a payment are what it is for. */
function besideContent(command: Outcome["command"]): ReadonlySet<string> {
  if (command.type === "payment.named") return BESIDE_CONTENT_OF_NAMES;
  return isAboutPayment(command) ? BESIDE_CONTENT_OF_EVENTS : BESIDE_CONTENT;
}

/** Return a value with the fields of its objects in one order, and without those that are absent. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const given = Object.entries(value).filter(([, field]) => field != null);
  return given.map(([name, field]) => [name, sorted(field)]).sort();
}

/** Return whether a payment knows the user of such commands, who is then no part of what they are. */
function isAboutPayment({ type }: Outcome["command"]): boolean {
  return !PAYMENTS.has(type) && (type.startsWith("payment.") || type.endsWith("freeze"));
}

/** Return whether two commands are of one type and user: the same operation, or an attempt at it. */
export function isOfSame(stored: Outcome["command"], command: Single): boolean {
  return stored.type === command.type && (isAboutPayment(command) || stored.userId === command.userId);
}

/** Return whether a command of `type` takes the reference of another outcome: of usage that moved nothing. */
export function mayTake({ command, reply }: Outcome, type: string): boolean {
  return movedNothing(command, reply) && !type.startsWith("usage.");
}

/** Return whether usage was rejected, or took neither tokens nor free units and concerns no hold. */
export function movedNothing({ type }: { type: string }, decision: Reply | Decision): boolean {
  const { status, code, amount, freeQuantity } = decision;
  if (!type.startsWith("usage.")) return false;
  return status === "rejected" || (amount === 0 && !freeQuantity && MAY_MOVE_NOTHING.has(code));
}

const MAY_MOVE_NOTHING = new Set<string>(["tokens_deducted", "free_upload_counted", "usage_recorded"]);

/** Return whether an event may wait for the payment that it names: nothing else has the name. */
export function mayWaitFor(original: Outcome | undefined): boolean {
  if (original === undefined || original.reply.status === "rejected") return true;
  return movedNothing(original.command, original.reply) || PAYMENTS.has(original.command.type);
}

/** Fail loudly where a command names nobody. */
export function requireSomebody(command: Single): void {
  if (command.userId == null && nameIn(command) === undefined)
    throw new Error(`FakeBillingClient needs a userId, or the name of a payment, for ${command.type}`);
}
