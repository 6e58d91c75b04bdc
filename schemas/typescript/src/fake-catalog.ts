// The packaged catalog, for the fake. A test compares it with the worker's answer.

import type { Catalog } from "./fake-ledger.js";

const MIB = 1_048_576;

export const CATALOG: Catalog = {
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
