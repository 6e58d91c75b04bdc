// Messages on their way: written, written again after a loss, and ended by a reply, a confirm or the clock.

import { randomUUID } from "node:crypto";

import { BillingTimeout, BillingUnavailable } from "./errors.js";
import type { BillingConfiguration } from "./errors.js";

/** A message to send. */
export interface Outgoing {
  readonly exchange: string;
  readonly type: string;
  readonly body: Buffer;
  /** Reference of a command; a query has none. */
  readonly referenceId?: string;
}

/** A message whose end is awaited. `writes` counts how often it was given to the broker. */
export interface Pending extends Outgoing {
  readonly id: string;
  readonly timeoutMs: number;
  writes: number;
  isWritten: boolean;
  isConfirmed: boolean;
  readonly end: (outcome: Buffer | Error) => void;
}

/** Requests of one kind: at most `places` are with the broker at a time, and the others wait in line. */
export class Requests {
  readonly #open = new Map<string, Pending>();
  readonly #unwritten = new Set<Pending>();
  readonly #line = new Set<Pending>();
  #whenEmpty: (() => void) | undefined;
  #refusal: BillingConfiguration | undefined;

  /** `write` gives a message to the broker; it returns false where it can't now, and `pump` tries again. */
  constructor(
    private readonly places: number,
    private readonly write: (request: Pending) => boolean,
  ) {}

  /** Send a message; return the body of its reply, or an empty one with the confirm. */
  send(message: Outgoing, timeoutMs: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const end = (outcome: Buffer | Error): void => {
        clearTimeout(timer);
        this.#forget(request);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      };
      const request: Pending = {
        ...message,
        id: randomUUID(),
        timeoutMs,
        writes: 0,
        isWritten: false,
        isConfirmed: false,
        end,
      };
      const timer = setTimeout(() => end(expired(request)), timeoutMs);
      if (this.#refusal !== undefined) end(this.#refusal);
      else this.#admit(request);
    });
  }

  /** Write all that waits, in order. */
  pump(): void {
    for (const request of this.#unwritten) {
      request.writes += 1;
      request.isWritten = this.write(request);
      if (!request.isWritten) {
        request.writes -= 1;
        return;
      }
      this.#unwritten.delete(request);
    }
  }

  /** Let what was written wait again: the broker may not have it. With `all`, also what it has confirmed. */
  lost({ all }: { all: boolean }): void {
    for (const request of this.#open.values()) {
      if (!all && request.isConfirmed) continue;
      request.isWritten = request.isConfirmed = false;
      this.#unwritten.add(request);
    }
  }

  /** Return the request of a reply, a return or a confirm; none where it has ended. */
  get(id: string | undefined): Pending | undefined {
    return id === undefined ? undefined : this.#open.get(id);
  }

  /** End what was never written, and what comes, until `accept`. What was written may have been applied. */
  refuse(refusal: BillingConfiguration): void {
    this.#refusal = refusal;
    for (const request of this.#all()) if (request.writes === 0) request.end(refusal);
  }

  /** End what the broker has refused together with its channel: what went to the exchange that it names. */
  refuseWritten(refusal: BillingConfiguration): void {
    const exchange = /exchange '([^']*)'/.exec(refusal.message)?.[1];
    for (const request of [...this.#open.values()]) {
      const isMeant = exchange === undefined || exchange === request.exchange;
      if (isMeant && request.isWritten && !request.isConfirmed) request.end(refusal);
    }
  }

  accept(): void {
    this.#refusal = undefined;
  }

  /** Return when all have ended; end them after `timeoutMs`. */
  async drained(timeoutMs: number): Promise<void> {
    if (this.#open.size === 0) return;
    const timer = setTimeout(() => {
      for (const request of this.#all()) request.end(expired({ ...request, timeoutMs }));
    }, timeoutMs);
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
    clearTimeout(timer);
  }

  #all(): Pending[] {
    return [...this.#open.values(), ...this.#line];
  }

  #admit(request: Pending): void {
    if (this.#open.size >= this.places) {
      this.#line.add(request);
      return;
    }
    this.#open.set(request.id, request);
    this.#unwritten.add(request);
    this.pump();
  }

  #forget(request: Pending): void {
    this.#line.delete(request);
    this.#unwritten.delete(request);
    if (!this.#open.delete(request.id)) return;
    const [next] = this.#line;
    if (next !== undefined) {
      this.#line.delete(next);
      this.#admit(next);
    }
    if (this.#open.size === 0) this.#whenEmpty?.();
  }
}

/** Text that every error about a command ends with. */
export const AGAIN = "the same reference again is applied once";

function expired({ type, referenceId, writes, timeoutMs }: Pending): Error {
  const name = referenceId === undefined ? type : `${type} ${referenceId}`;
  if (referenceId === undefined) return new BillingUnavailable(`${name}: no answer within ${timeoutMs} ms`);
  if (writes === 0) return new BillingUnavailable(`${name}: not sent within ${timeoutMs} ms; ${AGAIN}`);
  return new BillingTimeout(
    `${name}: no reply within ${timeoutMs} ms, its outcome is unknown; ${AGAIN}`,
    referenceId,
  );
}
