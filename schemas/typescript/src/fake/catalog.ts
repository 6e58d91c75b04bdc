// Catalogs of the fake: what is for sale, and on which terms. What is left out is as in the packaged one, whose
// packages, tiers and meters a test compares with the worker's answer.

import type { CatalogMeter, CatalogPackage, CatalogTier } from "../generated/contract.js";
import type { Source } from "./lots.js";

/** A package, with prices that count from a moment on and replace all others. */
export type Package = CatalogPackage & { readonly changes?: readonly PriceChange[] };

interface PriceChange {
  readonly validFrom: string;
  readonly prices: Record<string, number>;
}

/** A mark of a notice: sent at or below `at`, and again only after `againFrom` or more. */
interface Mark {
  readonly at: number;
  readonly againFrom: number;
}

/** Terms of a catalog, named as in the worker's `catalog.toml`; `null` marks and 0 days send no notices. */
export interface Terms {
  readonly payments: {
    readonly whenSpent: "debt" | "write_off";
    readonly onDispute: "wait" | "take" | "hold";
    readonly disputeHoldDays: number;
    readonly priceCheck: "exact" | "at_least" | "off";
    readonly onMismatch: "reject" | "credit_and_flag";
  };
  readonly refunds: { readonly unbound: "refuse" | "allow" };
  readonly notices: {
    readonly expiringDays: number;
    readonly low: Mark | null;
    readonly depleted: Mark | null;
  };
  readonly priorities: Record<Source, number>;
}

/** What is for sale, and on which terms. What is left out is as in the packaged catalog.
 *
 * `autoOpen` is the tier on which a first usage, credit or payment opens an account. */
export type Catalog = Partial<Sale> & { readonly [Part in keyof Terms]?: Partial<Terms[Part]> };

interface Sale {
  readonly packages: readonly Package[];
  readonly tiers: readonly CatalogTier[];
  readonly meters: readonly CatalogMeter[];
  readonly autoOpen?: string | undefined;
}

/** A catalog with nothing left out. */
export type FullCatalog = Sale & Terms;

const TERMS: Terms = {
  payments: {
    whenSpent: "debt",
    onDispute: "wait",
    disputeHoldDays: 365,
    priceCheck: "exact",
    onMismatch: "reject",
  },
  refunds: { unbound: "refuse" },
  notices: {
    expiringDays: 7,
    low: { at: 1_000, againFrom: 5_000 },
    depleted: { at: 0, againFrom: 1_000 },
  },
  priorities: {
    allocation: 10,
    bonus: 20,
    purchase_bonus: 20,
    refund: 30,
    adjustment: 40,
    purchase: 50,
    carried_over: 50,
  },
};

/** Return a catalog with what it leaves out. */
export function complete({ payments, refunds, notices, priorities, ...sale }: Catalog): FullCatalog {
  return {
    ...SALE,
    ...sale,
    payments: { ...TERMS.payments, ...payments },
    refunds: { ...TERMS.refunds, ...refunds },
    notices: { ...TERMS.notices, ...notices },
    priorities: { ...TERMS.priorities, ...priorities },
  };
}

/** Return the prices of a package that were valid at `moment`, by currency. */
export function pricesAt({ prices, changes = [] }: Package, moment: number): Record<string, number> {
  const changed = changes.filter(({ validFrom }) => Date.parse(validFrom) <= moment);
  const latest = changed.sort((one, other) => Date.parse(one.validFrom) - Date.parse(other.validFrom)).at(-1);
  return latest?.prices ?? prices;
}

/** Return a package as it is for sale at `moment`. */
export function soldAt(sold: Package, moment: number): CatalogPackage {
  const { changes: _, priceMinor: _price, currency: _currency, ...fields } = sold;
  const prices = pricesAt(sold, moment);
  const [only, ...others] = Object.entries(prices);
  const price = only === undefined || others.length > 0 ? {} : { currency: only[0], priceMinor: only[1] };
  return { ...fields, ...price, prices };
}

const MIB = 1_048_576;

const SALE: Sale = {
  packages: [
    sold("starter", 0, 50_000, 0, 499),
    { ...sold("standard", 1, 250_000, 25_000, 1_999), bonusValidDays: 365 },
    { ...sold("plus", 2, 1_000_000, 150_000, 6_999), bonusValidDays: 365 },
    { ...sold("max", 3, 5_000_000, 1_000_000, 29_999), bonusValidDays: 365 },
  ],
  tiers: [
    { ...tier("free", 10_000, 100 * MIB, 0), autoRenew: true },
    tier("basic", 100_000, 1_024 * MIB, 0),
    tier("pro", 500_000, 10 * 1_024 * MIB, 100_000),
    tier("enterprise", 5_000_000, 100 * 1_024 * MIB, 1_000_000),
  ],
  meters: [
    {
      id: "upload",
      unit: "byte",
      per: MIB,
      tokens: 10,
      rounding: "up",
      minimumTokens: 0,
      quota: "free_upload",
    },
    { id: "ocr", unit: "page", per: 1, tokens: 120, rounding: "up", minimumTokens: 120, quota: "ocr" },
  ],
};

function sold(id: string, index: number, tokens: number, bonusTokens: number, priceMinor: number) {
  const prices = { USD: priceMinor };
  return { id, index, tokens, bonusTokens, priceMinor, currency: "USD", prices, rates: {} };
}

function tier(id: string, monthlyTokens: number, freeUploadBytes: number, rolloverTokens: number) {
  return { id, monthlyTokens, freeUploadBytes, freeUnits: {}, rolloverTokens, autoRenew: false };
}
