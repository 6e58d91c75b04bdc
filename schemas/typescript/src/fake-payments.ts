// Payments of the fake, and what goes back of them: it follows from the set of their events, not from their order.

import type { Lot, Operation } from "./fake-account.js";
import { DAY_MS, applied, rejected, timeOf } from "./fake-decisions.js";
import type { Case, Decision, Of, Single } from "./fake-decisions.js";
import type { CatalogPackage, Code, Reply, SubscriptionPayment } from "./generated/contract.js";

export type EventCommand = Of<
  | "payment.refunded"
  | "payment.refund_failed"
  | "payment.disputed"
  | "payment.dispute_closed"
  | "payment.failed"
>;
export type FreezingCommand = Of<"account.freeze" | "account.unfreeze">;
/** Something that happened to a payment, and when it came. */
interface Event {
  readonly command: EventCommand;
  readonly at: number;
}

/** Something that waits for its payment. */
interface Waiting {
  readonly command: EventCommand | FreezingCommand;
  readonly at: number;
}

/** A payment; its lots are those that its operation made. */
export interface Payment {
  readonly referenceId: string;
  readonly userId: string;
  readonly amountMinor: number;
  readonly currency: string;
  readonly occurredAt: number | undefined;
  readonly baseTokens: number;
  readonly bonusTokens: number;
  readonly operation: Operation;
  events: Event[];
  /** What its events have taken of each lot by now; `undefined` stands for the debt. */
  taken: Map<Lot | undefined, number>;
  /** Tokens that went back and are not asked for: they expired unspent. */
  uncollected: number;
}

/** Payments by each of their names, the events that wait for one, and names of the same payment to come. */
export class FakePayments {
  readonly all: Payment[] = [];
  readonly #names = new Map<string, Payment>();
  #groups: ReadonlySet<string>[] = [];
  #waiting: Waiting[] = [];

  named(name: string): Payment | undefined {
    return this.#names.get(name);
  }

  /** Return the first of these names that another payment has. */
  taken(names: readonly string[]): string | undefined {
    return names.find((name) => this.#names.has(name));
  }

  /** Let the payment have these names, as far as they are free, and all that are the same; return these. */
  bind(payment: Payment, names: readonly string[]): readonly string[] {
    const own = this.#ungrouped(names);
    for (const name of own) this.#names.set(name, payment);
    return [...own];
  }

  /** Let those of these names that are free be of one payment to come. */
  join(names: readonly string[]): void {
    const alike = this.#ungrouped(names);
    if (alike.size > 0) this.#groups.push(alike);
  }

  /** Return the first of these names of each payment that has any of them. */
  owners(names: readonly string[]): string[] {
    const firsts = new Map<Payment, string>();
    for (const name of names) {
      const payment = this.#names.get(name);
      if (payment !== undefined && !firsts.has(payment)) firsts.set(payment, name);
    }
    return [...firsts.values()];
  }

  /** Return the free ones of these names with all that are the same, which are no group any more. */
  #ungrouped(names: readonly string[]): ReadonlySet<string> {
    const free = names.filter((name) => !this.#names.has(name));
    const met = this.#groups.filter((group) => free.some((name) => group.has(name)));
    this.#groups = this.#groups.filter((group) => !met.includes(group));
    return new Set([...free, ...met.flatMap((group) => [...group])]);
  }

  wait(event: Waiting): void {
    this.#waiting.push(event);
  }

  /** Return the events that wait for a payment, under these names, and fit it; they wait no longer. */
  takeWaiting(payment: Payment, names: readonly string[] | undefined): Waiting[] {
    const isMet = ({ command }: Waiting): boolean =>
      this.#names.get(nameIn(command)!) === payment &&
      (names === undefined || names.includes(nameIn(command)!)) &&
      fits(payment, command);
    const met = this.#waiting.filter(isMet);
    this.#waiting = this.#waiting.filter((event) => !met.includes(event));
    return met;
  }
}

/** Return the name of the payment that a command is about; undefined for all that is about a user. */
export function nameIn(command: Single): string | undefined {
  if ("paymentReferenceId" in command) return command.paymentReferenceId ?? undefined;
  if (!command.type.startsWith("payment.") || !("originalReferenceId" in command)) return undefined;
  return command.originalReferenceId ?? undefined;
}

export function namesOf(named: Of<"payment.succeeded" | "payment.named"> | SubscriptionPayment): string[] {
  const first = "originalReferenceId" in named ? named.originalReferenceId : named.referenceId;
  return [first, ...(named.alsoKnownAs ?? [])];
}

/** Give a payment more names, and take in what waits for it under them. */
export function naming(command: Of<"payment.named">, of: Case): Decision {
  const { payments } = of.ledger;
  const payment = payments.named(payments.owners(namesOf(command))[0]!)!;
  const taken = takeIn(payment, of, payments.bind(payment, namesOf(command)));
  const { originalReferenceId } = command;
  return applied("payment_named", 0, {
    originalReferenceId,
    paymentReferenceId: payment.referenceId,
    ...taken,
  });
}

// -- a payment ---------------------------------------------------------------------------------------------

/** Credit a package: its tokens, and its bonus as a lot of its own. */
export function purchase(command: Of<"payment.succeeded">, of: Case): Decision {
  const { ledger, account, operation, now } = of;
  const { amountMinor, currency } = command;
  const taken = nameTaken(command, of);
  if (taken !== undefined) return taken;
  const sold = ledger.package(command);
  if (sold === undefined)
    return rejected("unknown_package", { packageId: command.packageId ?? `#${command.packageIndex}` });
  const listMinor = listPrice(command);
  const [baseTokens, bonusTokens] = tokensOf(sold, command);
  const isPrice = sold.rates[currency] !== undefined || priceOf(sold, command) === listMinor;
  if (!isPrice || baseTokens === 0) {
    const [expected, received] = [priceText(sold, command), `${listMinor} ${currency}`];
    return rejected("amount_mismatch", { packageId: sold.id, expected, received });
  }
  const credit = (counter: string, tokens: number, source: string, days: number | undefined): void => {
    const expiresAt = days === undefined ? undefined : now + days * DAY_MS;
    if (tokens > 0) account.credit(operation, counter, tokens, now, { source, expiresAt });
  };
  credit("purchases", baseTokens, "purchase", sold.validDays);
  credit("bonus", bonusTokens, "purchase_bonus", sold.bonusValidDays);
  return applied("tokens_purchased", baseTokens + bonusTokens, {
    ...{ packageId: sold.id, baseTokens, bonusTokens },
    listMinor: listMinor === amountMinor ? undefined : listMinor,
    ...recorded(command, [baseTokens, bonusTokens], of),
  });
}

/** Return the refusal of a payment of which a name is another payment's. */
export function nameTaken(
  payment: Of<"payment.succeeded"> | SubscriptionPayment,
  { ledger }: Case,
): Decision | undefined {
  const taken = ledger.payments.taken(namesOf(payment));
  return taken === undefined ? undefined : rejected("reference_taken", { originalReferenceId: taken });
}

/** Record a payment whose tokens are credited, and take in the events that wait for it. */
export function recorded(
  paid: Of<"payment.succeeded"> | SubscriptionPayment,
  [baseTokens, bonusTokens]: readonly [number, number],
  of: Case,
): Pick<Reply, "uncollected"> {
  const { referenceId, amountMinor, currency } = paid;
  const { operation, ledger, occurredAt } = of;
  const about = { referenceId, amountMinor, currency, occurredAt, baseTokens, bonusTokens };
  const none = { events: [], taken: new Map(), uncollected: 0 };
  const payment: Payment = { ...about, userId: of.account.userId, operation, ...none };
  ledger.payments.all.push(payment);
  return takeIn(payment, of, ledger.payments.bind(payment, namesOf(paid)));
}

/** Let the events that wait for a payment count; return what a reply says of it. */
export function takeIn(payment: Payment, of: Case, names?: readonly string[]): Pick<Reply, "uncollected"> {
  const waiting = of.ledger.payments.takeWaiting(payment, names);
  if (waiting.length === 0) return {};
  const occurred = ({ command, at }: Waiting): number => timeOf(command.occurredAt) ?? at;
  waiting.sort((one, other) => occurred(one) - occurred(other));
  for (const event of waiting) {
    const { command, at } = event;
    if (isFreezing(command)) freezeOrNot(command, at, of);
    else payment.events.push({ command, at });
  }
  const { uncollected } = bringUpToDate(payment, of);
  return { uncollected };
}

function isFreezing(command: EventCommand | FreezingCommand): command is FreezingCommand {
  return command.type.startsWith("account.");
}

/** Return what the goods cost without tax, shipping and discount, as far as the payment says so. */
function listPrice(command: Of<"payment.succeeded">): number {
  const { amountMinor, listMinor, taxMinor, otherMinor, discountMinor } = command;
  return listMinor ?? amountMinor - (taxMinor ?? 0) - (otherMinor ?? 0) + (discountMinor ?? 0);
}

function tokensOf(sold: CatalogPackage, command: Of<"payment.succeeded">): [number, number] {
  const rate = sold.rates[command.currency];
  if (rate !== undefined)
    return [Math.floor((Math.max(listPrice(command), 0) * rate.tokens) / rate.perMinor), 0];
  const quantity = command.quantity ?? 1;
  return [sold.tokens * quantity, sold.bonusTokens * quantity];
}

function priceOf(sold: CatalogPackage, command: Of<"payment.succeeded">): number | undefined {
  const price = sold.prices[command.currency];
  return price === undefined ? undefined : price * (command.quantity ?? 1);
}

function priceText(sold: CatalogPackage, command: Of<"payment.succeeded">): string {
  const { currency, quantity } = command;
  const price = priceOf(sold, command);
  if (price !== undefined) return `${price} ${currency}`;
  const rates = Object.keys(sold.rates).map((name) => [name, `an amount in ${name}`] as const);
  const prices = Object.entries(sold.prices).map(
    ([name, one]) => [name, `${one * (quantity ?? 1)} ${name}`] as const,
  );
  const texts = [...rates, ...prices].sort(([one], [other]) => (one < other ? -1 : 1));
  return texts.map(([, text]) => text).join(" or ");
}

// -- its events --------------------------------------------------------------------------------------------

/** Apply an event of a payment: take back or give back the tokens that follow from it now. */
export function eventDecided(command: EventCommand, payment: Payment, of: Case): Decision {
  const detail = detailOf(command);
  if (!fits(payment, command)) {
    const expected = `${payment.amountMinor} ${payment.currency}`;
    const { originalReferenceId } = command;
    return rejected("currency_mismatch", { originalReferenceId, expected, received: moneyText(command) });
  }
  const before = moneyBack(payment, payment.events);
  payment.events.push({ command, at: of.now });
  const { moved, uncollected } = bringUpToDate(payment, of);
  const countedMinor = countedLess(command, payment, moneyBack(payment, payment.events) - before);
  return applied(codeOf(command, payment), moved, { ...detail, countedMinor, uncollected });
}

/** Let an event wait for its payment. */
export function awaited(
  command: EventCommand | FreezingCommand,
  { ledger, now }: Pick<Case, "ledger" | "now">,
) {
  ledger.payments.wait({ command, at: now });
  const detail = isFreezing(command) ? freezingDetail(command) : detailOf(command);
  return applied("payment_awaited", 0, detail);
}

function freezingDetail({ paymentReferenceId }: FreezingCommand): Partial<Reply> {
  const name = paymentReferenceId ?? undefined;
  return { originalReferenceId: name, paymentReferenceId: name };
}

/** Freeze an account, or let it be used again: the word that occurred latest counts. */
export function freezeOrNot(
  command: FreezingCommand,
  at: number,
  { account }: Pick<Case, "account">,
): Decision {
  const occurred = timeOf(command.occurredAt) ?? at;
  if (command.type === "account.freeze") account.freeze(occurred);
  else account.unfreeze(occurred);
  const code = account.frozenAt === undefined ? "freeze_ended" : "freeze_began";
  return applied(code, 0, { paymentReferenceId: command.paymentReferenceId ?? undefined });
}

/** Return whether an event's money can count: a refund in another currency is a mistake. */
function fits({ currency }: Payment, command: EventCommand | FreezingCommand): boolean {
  return command.type !== "payment.refunded" || command.currency === currency;
}

function detailOf(command: EventCommand): Partial<Reply> {
  return { originalReferenceId: command.originalReferenceId, amountMinor: amountIn(command) };
}

function amountIn(command: EventCommand): number | undefined {
  if ("refundedTotalMinor" in command && command.refundedTotalMinor != null)
    return command.refundedTotalMinor;
  return ("amountMinor" in command ? command.amountMinor : undefined) ?? undefined;
}

function moneyText(command: EventCommand): string {
  return `${amountIn(command)} ${"currency" in command ? command.currency : ""}`;
}

function codeOf(command: EventCommand, { events }: Payment): Code {
  switch (command.type) {
    case "payment.refunded":
      return isStyleMixed(events) ? "refund_style_mixed" : "payment_refunded";
    case "payment.refund_failed":
      return "refund_failed";
    case "payment.disputed":
      return command.stage === "inquiry" ? "inquiry_opened" : "payment_disputed";
    case "payment.dispute_closed":
      return `dispute_${command.result}`;
    case "payment.failed":
      return "payment_failed";
  }
}

function isStyleMixed(events: readonly Event[]): boolean {
  const styles = only(events, "payment.refunded").map((refund) => refund.amountMinor == null);
  return new Set(styles).size > 1;
}

/** Return how much of an event's money counts, where that is less. */
function countedLess(command: EventCommand, payment: Payment, counted: number): number | undefined {
  const amount = amountIn(command);
  const isOther = "currency" in command && command.currency !== payment.currency;
  if (amount === undefined || isOther) return undefined;
  if (command.type === "payment.refunded" && command.amountMinor == null)
    return payment.amountMinor < amount ? payment.amountMinor : undefined;
  const takes = command.type === "payment.refunded" || isLost(command);
  return takes && counted < amount ? counted : undefined;
}

// -- money that has gone back ------------------------------------------------------------------------------

/** Return the money that went back: refunds and lost disputes, at most what was paid; all of it for a failure. */
function moneyBack(payment: Payment, events: readonly Event[]): number {
  const { amountMinor, occurredAt: paidAt } = payment;
  const hasFailed = ({ occurredAt }: Of<"payment.failed">): boolean =>
    paidAt === undefined || (timeOf(occurredAt) ?? paidAt) >= paidAt;
  if (only(events, "payment.failed").some(hasFailed)) return whole(payment);
  return Math.min(refunded(events) + disputed(payment, events), amountMinor);
}

/** Return the basis of proportions, which is never 0. */
function whole({ amountMinor }: Payment): number {
  return Math.max(amountMinor, 1);
}

/** Return the sum of single refunds, or the latest total; of both the larger. */
function refunded(events: readonly Event[]): number {
  const failed = only(events, "payment.refund_failed").map((one) => one.refundReferenceId);
  const refunds = only(events, "payment.refunded");
  const singles = refunds.filter((one) => !failed.includes(one.referenceId));
  const totals = refunds.filter((one) => one.refundedTotalMinor != null);
  totals.sort(
    (one, other) => occurred(one) - occurred(other) || one.refundedTotalMinor! - other.refundedTotalMinor!,
  );
  const sum = singles.reduce((all, one) => all + (one.amountMinor ?? 0), 0);
  return Math.max(sum, totals.at(-1)?.refundedTotalMinor ?? 0);
}

/** Return the money of disputes whose latest closing is lost; one without a time is the oldest. */
function disputed(payment: Payment, events: readonly Event[]): number {
  const latest = new Map<string, Of<"payment.dispute_closed">>();
  const money = (closing: Of<"payment.dispute_closed">): number => {
    if (!isLost(closing)) return 0;
    return closing.currency === payment.currency ? closing.amountMinor : payment.amountMinor;
  };
  for (const closing of only(events, "payment.dispute_closed")) {
    const known = latest.get(closing.disputeId);
    const [time, other] = [occurred(closing), known === undefined ? -Infinity : occurred(known)];
    const isLater =
      time > other || (time === other && (known === undefined || money(closing) >= money(known)));
    if (isLater) latest.set(closing.disputeId, closing);
  }
  return [...latest.values()].reduce((sum, closing) => sum + money(closing), 0);
}

function isLost(command: EventCommand): boolean {
  return command.type === "payment.dispute_closed" && command.result === "lost";
}

function occurred({ occurredAt }: EventCommand): number {
  return timeOf(occurredAt) ?? -Infinity;
}

function only<T extends EventCommand["type"]>(events: readonly Event[], type: T): Of<T>[] {
  return events.map(({ command }) => command).filter((command) => command.type === type) as Of<T>[];
}

// -- tokens that follow from it ----------------------------------------------------------------------------

/** Take back or give back what all events ask for; return what moved, and what expired instead. */
function bringUpToDate(payment: Payment, of: Case): { moved: number; uncollected: number | undefined } {
  const { account, now } = of;
  if (moneyBack(payment, payment.events) > 0) account.takeEffect(payment.operation, now);
  const lots = account.lots.filter((lot) => lot.operation === payment.operation);
  const isBonus = ({ source }: Lot): boolean => source === "purchase_bonus";
  const groups = [
    { lots: lots.filter((lot) => !isBonus(lot)), tokens: payment.baseTokens },
    { lots: lots.filter(isBonus), tokens: payment.bonusTokens },
  ].map((group) => ({ ...group, ...askedOf(group, payment) }));
  const asked = sum(groups.map((group) => group.asked));
  const before = sum([...payment.taken.values()]);
  const uncollected = sum(groups.map((group) => group.lapsed));
  moveTo(taking(asked, groups, payment, of), payment, of);
  const more = uncollected - payment.uncollected;
  payment.uncollected = uncollected;
  return { moved: Math.abs(asked - before), uncollected: more > 0 ? more : undefined };
}

interface Group {
  readonly lots: readonly Lot[];
  readonly tokens: number;
}

/** Return the tokens that go back of a group of lots, and those that are not asked for: they expired unspent. */
function askedOf({ lots, tokens }: Group, payment: Payment): { asked: number; lapsed: number } {
  const [back, of] = [moneyBack(payment, payment.events), whole(payment)];
  const share = Math.floor((tokens * back) / of);
  const lapsed = lots.map((lot) => {
    const before = moneyBack(payment, knownBefore(payment.events, lot.expiresAt));
    return back <= before ? 0 : Math.floor((lot.lapsed * (back - before)) / (of - before));
  });
  const notAsked = Math.min(sum(lapsed), share);
  return { asked: share - notAsked, lapsed: notAsked };
}

/** Return the events of refunds and disputes that were known before `moment`, with what came of them. */
function knownBefore(events: readonly Event[], moment: number): Event[] {
  const known = new Set(events.filter(({ at }) => at < moment).map(subject));
  return events.filter((event) => known.has(subject(event)));
}

function subject({ command }: Event): string {
  if ("disputeId" in command) return `dispute ${command.disputeId}`;
  return `refund ${"refundReferenceId" in command ? command.refundReferenceId : command.referenceId}`;
}

/** Return what is to be taken of each lot: of the payment's own first, then of those before, then of any. */
function taking(
  tokens: number,
  groups: readonly (Group & { asked: number })[],
  { taken }: Payment,
  { account }: Case,
): Payment["taken"] {
  const [after, debt] = [new Map<Lot | undefined, number>(), taken.get(undefined) ?? 0];
  let left = tokens;
  const claim = (lot: Lot, most: number): number => {
    const claimed = after.get(lot) ?? 0;
    const part = Math.min(lot.tokens + (taken.get(lot) ?? 0) - claimed, most, left);
    after.set(lot, claimed + part);
    left -= part;
    return part;
  };
  for (const group of groups) {
    let most = group.asked;
    for (const lot of group.lots) most -= claim(lot, most);
  }
  for (const { lots } of groups) for (const lot of lots) claim(lot, left);
  for (const [lot, before] of taken) if (lot !== undefined && !after.has(lot)) claim(lot, before);
  const kept = Math.min(debt, left);
  left -= kept;
  for (const lot of account.lots) claim(lot, left);
  return after.set(undefined, kept + left);
}

/** Move tokens until as much is taken of each lot as `after` says. What was owed goes back to the debt first. */
function moveTo(after: Payment["taken"], payment: Payment, { account, operation, now }: Case): void {
  const post = (tokens: number, lot?: Lot): void => account.post(operation, "reversals", tokens, now, lot);
  const change = (lot: Lot | undefined): number => (payment.taken.get(lot) ?? 0) - (after.get(lot) ?? 0);
  for (const lot of new Set([...payment.taken.keys(), ...after.keys()]))
    if (lot !== undefined) post(change(lot), lot);
  const owed = change(undefined);
  const repaid = Math.min(owed, Math.max(account.debt, 0));
  post(repaid);
  if (owed > repaid) account.credit(operation, "reversals", owed - repaid, now, { source: "purchase" });
  payment.taken = after;
  account.expireOver(operation, now);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, one) => all + one, 0);
}
