// Names of payments of the fake: whose they are, and which are of one payment that isn't there yet.

import type { Reply, SubscriptionPayment } from "../generated/contract.js";
import type { Of, Single } from "./decisions.js";
import type { Payment } from "./payments.js";

type Naming = Of<"payment.named">;

export class PaymentNames {
  readonly #payments = new Map<string, Payment>();
  /** Names that no payment has, in groups of those that are of one payment to come. */
  #groups: ReadonlySet<string>[] = [];

  /** Return the payment of a name. */
  payment(name: string): Payment | undefined {
    return this.#payments.get(name);
  }

  /** Return the first of these names of each payment that has any of them. */
  owned(names: readonly string[]): string[] {
    const firsts = new Map<Payment, string>();
    for (const name of names) {
      const payment = this.payment(name);
      if (payment !== undefined && !firsts.has(payment)) firsts.set(payment, name);
    }
    return [...firsts.values()];
  }

  /** Let those of these names that are free, and all that are the same, be the payment's; return them. */
  bind(payment: Payment, names: readonly string[]): string[] {
    const bound = this.#takeSame(names);
    for (const name of bound) this.#payments.set(name, payment);
    return bound;
  }

  /** Let those of these names that are free be of one payment to come. */
  join(names: readonly string[]): void {
    const same = this.#takeSame(names);
    this.#groups.push(new Set(same));
  }

  /** Give the names that are free to the payment of the others; without one they are of one to come. */
  teach(names: readonly string[]): void {
    const owned = this.owned(names);
    if (owned.length === 0) this.join(names);
    if (owned.length === 1) this.bind(this.payment(owned[0]!)!, names);
  }

  /** Learn the names that a copy of a payment has beside those of the first. */
  learn(command: Single, { status, code }: Reply): void {
    if (command.type !== "payment.succeeded") return;
    const [names, payment] = [namesOf(command), this.payment(command.referenceId)];
    if (payment === undefined) {
      if (status === "rejected" && code !== "reference_taken") this.join(names);
    } else if (status === "applied") {
      this.bind(payment, names);
    }
  }

  /** Return the free ones of these names and all that are the same, which are in no group any more. */
  #takeSame(names: readonly string[]): string[] {
    const free = names.filter((name) => this.payment(name) === undefined);
    const [met, others] = [new Set(free), [] as ReadonlySet<string>[]];
    for (const group of this.#groups) {
      if (free.some((name) => group.has(name))) group.forEach((name) => met.add(name));
      else others.push(group);
    }
    this.#groups = others;
    return [...met];
  }
}

/** Return the name of the payment that a command is about; undefined for all that is about a user. */
export function nameIn(command: Single): string | undefined {
  if ("paymentReferenceId" in command) return command.paymentReferenceId ?? undefined;
  if (!command.type.startsWith("payment.") || !("originalReferenceId" in command)) return undefined;
  return command.originalReferenceId ?? undefined;
}

/** Return all names of a payment that a command tells. */
export function namesOf(told: Of<"payment.succeeded"> | SubscriptionPayment | Naming): string[] {
  const first = "originalReferenceId" in told ? told.originalReferenceId : told.referenceId;
  return [first, ...(told.alsoKnownAs ?? [])];
}
