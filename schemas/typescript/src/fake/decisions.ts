// Decisions of the fake's rules: what they are made of, and what they say.

import type { Code, Command, Reply } from "../generated/contract.js";
import type { FakeAccount } from "./account.js";
import type { FakeLedger } from "./ledger.js";
import type { Operation } from "./lots.js";

export type Single = Exclude<Command, { type: "usage.batch" }>;
export type Of<T> = Extract<Single, { type: T }>;
export type Decision = Partial<Reply> & { status: "applied" | "rejected"; code: Code };

/** An account with what is due posted, and the operation that its entries are to name. */
export interface Case {
  readonly ledger: FakeLedger;
  readonly account: FakeAccount;
  readonly operation: Operation;
  readonly now: number;
}

export const DAY_MS = 86_400_000;

export function applied(code: Code, amount: number, detail: Partial<Reply> = {}): Decision {
  return { ...detail, status: "applied", code, amount };
}

export function rejected(code: Code, detail: Partial<Reply> = {}): Decision {
  return { ...detail, status: "rejected", code };
}

export function short(
  required: number,
  available: number,
  code: Code = "insufficient_balance",
  detail: Partial<Reply> = {},
): Decision {
  return rejected(code, { ...detail, required, available, shortfall: required - available });
}

export function timeOf(text: string | null | undefined): number | undefined {
  return text == null ? undefined : Date.parse(text);
}
