// Lots of the fake: credit, each with its own end, and the order in which it is spent.

import type { Transaction } from "../generated/contract.js";

/** What entries say about the operation that posted them; its code is known once it is decided. */
export type Operation = Pick<Transaction, "transactionId" | "referenceId" | "type"> &
  Partial<Pick<Transaction, "feature" | "description" | "metadata">> & { code: string; occurredAt?: number };

/** New tokens, and the lot that is opened for them. Without `effectiveAt` they take effect now. */
export interface Credit {
  readonly source: Source;
  readonly tokens: number;
  readonly effectiveAt?: number | undefined;
  readonly expiresAt?: number | undefined;
  readonly priority?: number | null | undefined;
  /** Number of the lot that the new one belongs to: a purchase, or an allocation that rolls over. */
  readonly parent?: number | undefined;
  readonly counter?: string | undefined;
}

/** Counters of entries by the source of the lot that they credit. */
export const COUNTER_OF = {
  allocation: "allocation",
  purchase: "purchases",
  purchase_bonus: "bonus",
  bonus: "bonus",
  refund: "refunds",
  adjustment: "adjustments",
  carried_over: "transfers",
} as const;
export type Source = keyof typeof COUNTER_OF;

export class Lot {
  /** Tokens that are left; `held` of them are kept by holds, `pending` ones take effect later. */
  tokens = 0;
  held = 0;
  pending = 0;
  /** When it ended before its time. */
  endedAt = Infinity;
  isNoticed = false;

  constructor(
    readonly number: number,
    readonly operation: Operation,
    readonly source: Source,
    readonly granted: number,
    readonly priority: number,
    readonly effectiveAt: number,
    readonly expiresAt: number,
    readonly parent: number | undefined,
  ) {}

  get free(): number {
    return this.tokens - this.held;
  }

  get endsAt(): number {
    return Math.min(this.expiresAt, this.endedAt);
  }

  copy(): Lot {
    return Object.assign(Object.create(Lot.prototype) as Lot, this);
  }
}

/** Compare two lots in the order in which they are spent: by priority, the sooner end, then the older. */
export function inBurnOrder(one: Lot, other: Lot): number {
  const ends = one.endsAt === other.endsAt ? 0 : one.endsAt - other.endsAt; // Infinity has no difference
  return (
    one.priority - other.priority || ends || one.effectiveAt - other.effectiveAt || one.number - other.number
  );
}
