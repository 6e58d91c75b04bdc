// The ledger of the fake: accounts, payments, and what is stored about each reference.

import type { CatalogTier } from "../generated/contract.js";
import { FakeAccount } from "./account.js";
import { Calendar } from "./calendar.js";
import type { FullCatalog, Package } from "./catalog.js";
import type { Outcome } from "./contents.js";
import type { Of } from "./decisions.js";
import { FakePayments } from "./payments.js";
import type { Counted } from "./usage.js";

/** Version of the contract, which replies and notices carry. */
export const VERSION = { schemaVersion: 2 };

export class FakeLedger {
  readonly accounts = new Map<string, FakeAccount>();
  readonly payments = new FakePayments();
  /** Outcomes by reference; the last is in force, and an earlier one is of usage that moved nothing. */
  readonly stored = new Map<string, readonly Outcome[]>();
  /** Tokens of usages that were given back, by the usages' references. */
  readonly refunded = new Map<string, number>();
  /** Free units that are left of usages. */
  readonly counted = new Map<string, Counted>();
  #operations = 0;

  constructor(
    readonly catalog: FullCatalog,
    readonly now: () => number,
  ) {}

  /** Return the outcome of a reference that is in force. */
  outcome(referenceId: string): Outcome | undefined {
    return this.stored.get(referenceId)?.at(-1);
  }

  get outcomes(): Outcome[] {
    return [...this.stored.values()].flatMap((outcomes) => outcomes.slice(-1));
  }

  /** Return the number of a new operation. */
  number(): string {
    this.#operations += 1;
    return String(this.#operations);
  }

  tier(id: string): CatalogTier | undefined {
    return this.catalog.tiers.find((tier) => tier.id === id);
  }

  package({ packageId, packageIndex }: Of<"payment.succeeded">): Package | undefined {
    return this.catalog.packages.find(({ id, index }) =>
      packageId == null ? index === packageIndex : id === packageId,
    );
  }

  /** Return the user's account as it is posted, or as a usage would open it. */
  toUse(userId: string): FakeAccount | undefined {
    const { autoOpen } = this.catalog;
    const tier = autoOpen === undefined ? undefined : this.tier(autoOpen);
    return this.accounts.get(userId) ?? (tier && this.unopened(userId, tier));
  }

  /** Return an account that a usage opens: its first period is due at once. */
  unopened(userId: string, tier: CatalogTier): FakeAccount {
    return this.newAccount(userId, tier, new Calendar(this.now(), this.now()));
  }

  newAccount(userId: string, tier: CatalogTier, calendar: Calendar, openedAt = this.now()): FakeAccount {
    return new FakeAccount(userId, tier, calendar, this.catalog, this.now, openedAt);
  }
}
