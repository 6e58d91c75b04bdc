// Errors, one class for each thing that a caller can do about it. A rejected command is no error: see Result.

import type { Reply } from "./generated/contract.js";

/** Base of all errors of this client. */
export class BillingError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** No connection, or no answer: nothing was changed. Try again later. */
export class BillingUnavailable extends BillingError {}

/** Missing queue or right, or a wrong password: somebody must set it up. */
export class BillingConfiguration extends BillingError {}

/** Unknown outcome: the command was sent, and no reply came in time. It may be applied, now or later.
 *
 * Ask with `operation(referenceId)`, or send the same command with the same reference: it is applied once. */
export class BillingTimeout extends BillingError {
  constructor(
    message: string,
    readonly referenceId: string,
  ) {
    super(message);
  }
}

/** Malformed command or query: the code that sent it has a mistake. `field` says where. */
export class BillingRefused extends BillingError {
  constructor(
    message: string,
    readonly field?: string,
    readonly reason?: string,
  ) {
    super(message);
  }
}

/** Fault of the worker: its operators have the message and may still apply it. Send no other reference. */
export class BillingFailed extends BillingError {
  constructor(readonly reply: Reply) {
    super(reply.message);
  }
}

/** Amount above 2^53 − 1, which a number can't hold. The operation itself was done.
 *
 * `body` is the whole reply or answer, with such amounts as bigint. */
export class BillingNumberTooLarge extends BillingError {
  constructor(
    message: string,
    readonly body: unknown,
  ) {
    super(message);
  }
}
