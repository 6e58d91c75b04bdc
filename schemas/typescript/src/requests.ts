// Messages on their way: written, written again after a loss, and ended by a reply, a confirm or the clock.

import { randomUUID } from "node:crypto";

import { BillingTimeout, BillingUnavailable } from "./errors.js";
import type { BillingConfiguration } from "./errors.js";

/** A message to send; a query has no `referenceId`. */
export interface Outgoing {
  readonly exchange: string;
  readonly type: string;
  readonly routingKey: string;
  readonly body: Buffer;
  readonly referenceId?: string;
  readonly traceparent?: string | undefined;
}

/** A message whose end is awaited. `writes` counts how often it was given to the broker. */
export interface Request extends Outgoing {
  readonly id: string;
  readonly timeoutMs: number;
  writes: number;
  /** Whether the broker has taken it once; it may be applied then. */
  isConfirmed: boolean;
  /** Whether the next channel gets it: until the broker has it, and again where its reply lost its way back. */
  isDue: boolean;
  readonly end: (outcome: Buffer | Error) => void;
}

/** Requests of one kind: at most `places` are with the broker at a time, and the others wait in line. */
export class Requests {
  readonly #line = new Set<Request>();
  /** Those that have a place, in the order in which they came. */
  readonly #placed = new Map<unknown, Request>();
  #refusal: BillingConfiguration | undefined;
  #whenEmpty: (() => void) | undefined;

  /** `write` gives a message to the broker; it returns false where it can't now, and `opened` tries again. */
  constructor(
    private readonly places: number,
    private readonly write: (request: Request) => boolean,
  ) {}

  /** Send a message; return the body of its reply, or an empty one with the confirm. */
  send(message: Outgoing, timeoutMs: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const end = (outcome: Buffer | Error): void => {
        clearTimeout(timer);
        this.#line.delete(request);
        this.#placed.delete(request.id);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
        this.#fill();
      };
      const request = {
        ...message,
        id: randomUUID(),
        timeoutMs,
        writes: 0,
        isConfirmed: false,
        isDue: true,
        end,
      };
      const timer = setTimeout(() => end(expired(request, timeoutMs)), timeoutMs);
      this.#line.add(request);
      if (this.#refusal === undefined) this.#fill();
      else end(this.#refusal);
    });
  }

  /** End the request with this id; nothing is left of one that has ended before. */
  end(id: unknown, outcome: Buffer | Error): void {
    this.#placed.get(id)?.end(outcome);
  }

  /** Write what is due to a new channel. What the broker has already is applied once, and answered again. */
  opened(): void {
    this.#refusal = undefined;
    for (const request of this.#placed.values()) if (request.isDue) this.#write(request);
  }

  /** Note that no reply can come any more to what was written. */
  lost(): void {
    for (const request of this.#placed.values()) request.isDue = true;
  }

  /** End what was never written, and what comes, until `opened`. What was written may have been applied. */
  refuse(refusal: BillingConfiguration): void {
    this.#refusal = refusal;
    for (const request of this.#all()) if (request.writes === 0) request.end(refusal);
  }

  /** End what the broker has refused together with its channel: what went to the exchange that it names. */
  refuseWritten(refusal: BillingConfiguration): void {
    const exchange = /exchange '([^']*)'/.exec(refusal.message)?.[1];
    for (const request of this.#all()) {
      const isMeant = exchange === undefined || exchange === request.exchange;
      if (isMeant && request.writes > 0 && !request.isConfirmed) request.end(refusal);
    }
  }

  /** Return when all have ended; end them after `timeoutMs`. */
  async drained(timeoutMs: number): Promise<void> {
    const endAll = (): void => this.#all().forEach((request) => request.end(expired(request, timeoutMs)));
    const timer = setTimeout(endAll, timeoutMs);
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
      this.#fill();
    });
    clearTimeout(timer);
  }

  /** All, those in line first: where they end, no place becomes free for another one. */
  #all(): Request[] {
    return [...this.#line, ...this.#placed.values()];
  }

  /** Give free places to the next in line. */
  #fill(): void {
    for (const request of this.#line) {
      if (this.#placed.size >= this.places) return;
      this.#line.delete(request);
      this.#placed.set(request.id, request);
      this.#write(request);
    }
    if (this.#placed.size === 0) this.#whenEmpty?.();
  }

  #write(request: Request): void {
    if (this.write(request)) request.writes += 1;
  }
}

/** Text that every error about a command ends with. */
export const AGAIN = "the same reference again is applied once";

function expired({ type, referenceId, writes }: Request, afterMs: number): Error {
  if (referenceId === undefined) return new BillingUnavailable(`${type}: no answer within ${afterMs} ms`);
  const late = (what: string): string => `${type} ${referenceId}: ${what} within ${afterMs} ms`;
  if (writes === 0) return new BillingUnavailable(`${late("not sent")}; ${AGAIN}`);
  return new BillingTimeout(`${late("no reply")}, its outcome is unknown; ${AGAIN}`, referenceId);
}
