// Meter an upload pipeline: many usages at once, each with a reference of its own, however often a step runs.

import { randomUUID } from "node:crypto";

import type { Billing } from "@billing-worker/client";

export interface Upload {
  readonly id: string;
  readonly userId: string;
  readonly bytes: number;
  readonly pages: number;
}

/** Meter some uploads; return the ids of those that their users can't pay. */
export async function meter(billing: Billing, uploads: readonly Upload[]): Promise<string[]> {
  const items = uploads.flatMap(({ id, userId, bytes, pages }) => [
    {
      type: "usage.record" as const,
      referenceId: `upload/${id}`,
      userId,
      meter: "upload",
      quantity: bytes,
    },
    {
      type: "usage.record" as const,
      referenceId: `ocr/${id}`,
      userId,
      meter: "ocr",
      quantity: pages,
      feature: "ocr",
    },
  ]);
  // By the bulk lane, which lets whoever waits in a browser go first.
  const result = await billing.batch({ referenceId: `batch/${randomUUID()}`, items }, { lane: "bulk" });
  const unpaid = (result.items ?? []).filter((item) => item.code === "insufficient_balance");
  return [...new Set(unpaid.map((item) => item.referenceId?.split("/")[1] ?? ""))];
}
