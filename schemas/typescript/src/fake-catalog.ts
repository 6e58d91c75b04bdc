// The packaged catalog, for the fake. A test compares it with the worker's answer.

import type { CatalogAnswer } from "./generated/contract.js";

export type Catalog = Pick<CatalogAnswer, "packages" | "tiers" | "meters">;

const MIB = 1_048_576;

export const CATALOG: Catalog = {
  packages: [
    { id: "starter", index: 0, tokens: 50_000, bonusTokens: 0, priceMinor: 499, currency: "USD" },
    withBonus("standard", 1, 250_000, 25_000, 1_999),
    withBonus("plus", 2, 1_000_000, 150_000, 6_999),
    withBonus("max", 3, 5_000_000, 1_000_000, 29_999),
  ],
  tiers: [
    tier("free", 10_000, 100 * MIB, 0, true),
    tier("basic", 100_000, 1_024 * MIB, 0, false),
    tier("pro", 500_000, 10 * 1_024 * MIB, 100_000, false),
    tier("enterprise", 5_000_000, 100 * 1_024 * MIB, 1_000_000, false),
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

function withBonus(id: string, index: number, tokens: number, bonusTokens: number, priceMinor: number) {
  return { id, index, tokens, bonusTokens, priceMinor, currency: "USD", bonusValidDays: 365 };
}

function tier(
  id: string,
  monthlyTokens: number,
  freeUploadBytes: number,
  rolloverTokens: number,
  autoRenew: boolean,
) {
  return { id, monthlyTokens, freeUploadBytes, freeUnits: {}, rolloverTokens, autoRenew };
}
