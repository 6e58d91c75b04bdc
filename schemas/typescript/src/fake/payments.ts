// Payments of the fake: what they buy, what more names bring to them, and the events that wait for one.

import type { Reply, SubscriptionPayment } from "../generated/contract.js";
import { pricesAt } from "./catalog.js";
import type { Package } from "./catalog.js";
import { DAY_MS, applied, rejected, timeOf } from "./decisions.js";
import type { Case, Decision, Of } from "./decisions.js";
import { freezeOrNot, isFreezing } from "./freezing.js";
import type { FreezingCommand } from "./freezing.js";
import type { Operation } from "./lots.js";
import { PaymentNames, nameIn, namesOf } from "./names.js";
import { amountIn, bringUpToDate, countedLess, eventCode, fits } from "./reversals.js";
import type { EventCommand } from "./reversals.js";

type Purchase = Of<"payment.succeeded">;

/** Something that waits for its payment, or has happened to it, and when it came. */
export interface Event<C = EventCommand> {
  readonly command: C;
  readonly at: number;
}
type Waiting = Event<EventCommand | FreezingCommand>;

/** A payment. Its lots are those that its operation made: of a package, or the allocation of a period. */
export interface Payment {
  readonly referenceId: string;
  readonly userId: string;
  readonly isOfPeriod: boolean;
  readonly amountMinor: number;
  readonly currency: string;
  readonly occurredAt: number | undefined;
  readonly baseTokens: number;
  readonly bonusTokens: number;
  readonly operation: Operation;
  events: Event[];
  /** What its events have taken of each lot by now; `undefined` stands for the debt. */
  taken: Map<number | undefined, number>;
  /** Tokens that its events have taken in all, and those that are not claimed: expired, or written off. */
  collected: number;
  uncollected: number;
}

/** Payments, their names, and the events that wait for one. */
export class FakePayments {
  readonly all: Payment[] = [];
  readonly names = new PaymentNames();
  #waiting: Waiting[] = [];

  /** Return the payment of a name. */
  named(name: string): Payment | undefined {
    return this.names.payment(name);
  }

  add(payment: Omit<Payment, "events" | "taken" | "collected" | "uncollected">): Payment {
    const added = { ...payment, events: [], taken: new Map(), collected: 0, uncollected: 0 };
    this.all.push(added);
    return added;
  }

  wait(event: Waiting): void {
    this.#waiting.push(event);
  }

  /** Return a payment of the user that is there while events wait for it: the first by the names they use. */
  awaited(userId: string): Payment | undefined {
    const names = this.#waiting.map(({ command }) => nameIn(command)!).sort();
    return names.map((name) => this.named(name)).find((payment) => payment?.userId === userId);
  }

  /** Return the events that wait for a payment, under these names, and fit it; no other one ever counts. */
  takeWaiting(payment: Payment, names: readonly string[] | undefined): Waiting[] {
    const isMet = ({ command }: Waiting): boolean => {
      const name = nameIn(command)!;
      return this.named(name) === payment && (names?.includes(name) ?? true);
    };
    const met = this.#waiting.filter(isMet);
    this.#waiting = this.#waiting.filter((event) => !met.includes(event));
    return met.filter(({ command }) => isFreezing(command) || fits(payment, command));
  }
}

// -- a payment ---------------------------------------------------------------------------------------------

/** Credit a package: its tokens, and its bonus as a lot of its own. */
export function purchase(command: Purchase, of: Case): Decision {
  const { ledger, account, operation, now } = of;
  const { amountMinor, currency } = command;
  const taken = nameTaken(command, of);
  if (taken !== undefined) return taken;
  const sold = ledger.package(command);
  if (sold === undefined)
    return rejected("unknown_package", { packageId: command.packageId ?? `#${command.packageIndex}` });
  const [listMinor, [baseTokens, bonusTokens]] = [listPrice(command), tokensOf(sold, command)];
  const asked = { expected: priceText(sold, command, of), received: `${listMinor} ${currency}` };
  const isPrice = hasPrice(sold, command, of);
  if (baseTokens === 0 || (!isPrice && account.terms.payments.onMismatch === "reject"))
    return rejected("amount_mismatch", { packageId: sold.id, ...asked });
  const until = (days: number | undefined) => (days === undefined ? undefined : now + days * DAY_MS);
  const base = { source: "purchase", tokens: baseTokens, expiresAt: until(sold.validDays) } as const;
  const parent = account.credit(operation, base).number;
  const bonus = { source: "purchase_bonus", tokens: bonusTokens, parent } as const;
  if (bonusTokens > 0) account.credit(operation, { ...bonus, expiresAt: until(sold.bonusValidDays) });
  return applied(isPrice ? "tokens_purchased" : "purchase_flagged", baseTokens + bonusTokens, {
    ...{ packageId: sold.id, baseTokens, bonusTokens },
    listMinor: listMinor === amountMinor ? undefined : listMinor,
    ...recorded(command, [baseTokens, bonusTokens], of),
    ...(isPrice ? {} : asked),
  });
}

/** Return the refusal of a payment of which a name is another payment's. */
export function nameTaken(payment: Purchase | SubscriptionPayment, { ledger }: Case): Decision | undefined {
  const [taken] = ledger.payments.names.owned(namesOf(payment));
  return taken === undefined ? undefined : rejected("reference_taken", { originalReferenceId: taken });
}

/** Record a payment whose tokens are credited, and take in the events that wait for it. */
export function recorded(
  paid: Purchase | SubscriptionPayment,
  [baseTokens, bonusTokens]: readonly [number, number],
  of: Case,
): Pick<Reply, "uncollected"> {
  const { referenceId, amountMinor, currency } = paid;
  const { operation, ledger, account } = of;
  const money = { referenceId, userId: account.userId, amountMinor, currency };
  const tokens = { isOfPeriod: !("type" in paid), baseTokens, bonusTokens };
  const { occurredAt } = operation;
  const payment = ledger.payments.add({ ...money, ...tokens, occurredAt, operation });
  return takeIn(payment, of, ledger.payments.names.bind(payment, namesOf(paid)));
}

/** Return what the goods cost without tax, shipping and discount, as far as the payment says so. */
function listPrice(command: Purchase): number {
  const { amountMinor, listMinor, taxMinor, otherMinor, discountMinor } = command;
  return listMinor ?? amountMinor - (taxMinor ?? 0) - (otherMinor ?? 0) + (discountMinor ?? 0);
}

function tokensOf(sold: Package, command: Purchase): [number, number] {
  const rate = sold.rates[command.currency];
  if (rate !== undefined)
    return [Math.floor((Math.max(listPrice(command), 0) * rate.tokens) / rate.perMinor), 0];
  const quantity = command.quantity ?? 1;
  return [sold.tokens * quantity, sold.bonusTokens * quantity];
}

/** Return whether the list price of a payment is the catalog's, as the terms compare it. */
function hasPrice(sold: Package, command: Purchase, of: Case): boolean {
  if (hasRates(sold)) return sold.rates[command.currency] !== undefined;
  const [{ priceCheck }, received] = [of.account.terms.payments, listPrice(command)];
  const price = pricesOf(sold, command, of)[command.currency];
  const isMore = priceCheck === "at_least" && price !== undefined && received > price;
  return priceCheck === "off" || received === price || isMore;
}

function hasRates({ rates }: Package): boolean {
  return Object.keys(rates).length > 0;
}

/** Return the prices of what is bought when the payment occurred, by currency. */
function pricesOf(sold: Package, { quantity }: Purchase, { operation, now }: Case): Record<string, number> {
  const prices = Object.entries(pricesAt(sold, operation.occurredAt ?? now));
  return Object.fromEntries(prices.map(([currency, price]) => [currency, price * (quantity ?? 1)]));
}

function priceText(sold: Package, command: Purchase, of: Case): string {
  const { currency } = command;
  const prices = pricesOf(sold, command, of);
  if (!hasRates(sold) && prices[currency] !== undefined) return `${prices[currency]} ${currency}`;
  const texts = hasRates(sold)
    ? Object.keys(sold.rates).map((name) => [name, `an amount in ${name}`] as const)
    : Object.entries(prices).map(([name, price]) => [name, `${price} ${name}`] as const);
  const inOrder = texts.sort(([one], [other]) => (one < other ? -1 : 1));
  return inOrder.map(([, text]) => text).join(" or ");
}

// -- its names ---------------------------------------------------------------------------------------------

/** Give a payment more names, and take in the events that wait for it under them. */
export function giveNames(command: Of<"payment.named">, of: Case): Decision {
  const { names } = of.ledger.payments;
  const [owned] = names.owned(namesOf(command));
  const payment = names.payment(owned!)!;
  return applied("payment_named", 0, {
    originalReferenceId: command.originalReferenceId,
    paymentReferenceId: payment.referenceId,
    ...takeIn(payment, of, names.bind(payment, namesOf(command))),
  });
}

// -- its events --------------------------------------------------------------------------------------------

/** Let an event wait for its payment. */
export function awaited(
  command: EventCommand | FreezingCommand,
  { ledger, now }: Pick<Case, "ledger" | "now">,
) {
  ledger.payments.wait({ command, at: now });
  return applied("payment_awaited", 0, isFreezing(command) ? freezingDetail(command) : detailOf(command));
}

function freezingDetail({ paymentReferenceId }: FreezingCommand): Partial<Reply> {
  const name = paymentReferenceId ?? undefined;
  return { originalReferenceId: name, paymentReferenceId: name };
}

function detailOf(command: EventCommand): Partial<Reply> {
  return { originalReferenceId: command.originalReferenceId, amountMinor: amountIn(command) };
}

/** Apply an event of a payment: take back or give back the tokens that follow from it now. */
export function decideEvent(command: EventCommand, of: Case): Decision {
  const payment = of.ledger.payments.named(command.originalReferenceId)!;
  if (!fits(payment, command)) {
    const expected = `${payment.amountMinor} ${payment.currency}`;
    const received = `${amountIn(command)} ${"currency" in command ? command.currency : ""}`;
    const { originalReferenceId } = command;
    return rejected("currency_mismatch", { originalReferenceId, expected, received });
  }
  const before = [...payment.events];
  payment.events.push({ command, at: of.now });
  const { collected, uncollected } = bringUpToDate(payment, before, of);
  return applied(eventCode(command, payment), Math.abs(collected), {
    ...detailOf(command),
    countedMinor: countedLess(command, payment, before, of.account.terms),
    uncollected,
  });
}

/** Let the events count that wait for a payment, under these names or any; return what a reply says of it. */
function takeIn(payment: Payment, of: Case, names?: readonly string[]): Pick<Reply, "uncollected"> {
  const waiting = of.ledger.payments.takeWaiting(payment, names);
  if (waiting.length === 0) return {};
  const before = [...payment.events];
  const occurred = ({ command, at }: Waiting): number => timeOf(command.occurredAt) ?? at;
  waiting.sort((one, other) => occurred(one) - occurred(other));
  for (const event of waiting) {
    const { command, at } = event;
    if (isFreezing(command)) freezeOrNot(command, occurred(event), of.account);
    else payment.events.push({ command, at });
  }
  const { uncollected } = bringUpToDate(payment, before, of);
  return { uncollected };
}

/** Take in the events that wait for one payment of the account, under names that it was given later. */
export function takeInOne(of: Case): void {
  const payment = of.ledger.payments.awaited(of.account.userId);
  if (payment !== undefined) takeIn(payment, of);
}
