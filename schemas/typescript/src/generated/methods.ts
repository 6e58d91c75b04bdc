// Written by `npm run generate` from ../contract/messages.schema.json. Do not edit.

import type { Result } from "../outcomes.js";
import type { CommandOptions, Fields } from "../vocabulary.js";
import type * as contract from "./contract.js";

/** The methods that send a command each and return its result. */
export abstract class Methods {
  /** Send a command and return its result. */
  abstract request(command: contract.Command, options?: CommandOptions): Promise<Result>;

  /** Opens a balance on a subscription tier and grants the first period's allocation.
   *
   * Periods are months counted from the moment of opening (UTC): from the 31st, a shorter month's period begins on its last day. */
  openAccount(fields: Fields<contract.OpenAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.open", ...fields }, options);
  }

  /** Opens an account with all that it had in another system at `asOf`. Grants nothing by itself.
   *
   * Periods count from `anchor`; the allocation of the period at `asOf` counts as granted. `totals` must come to the balance: the tokens of all `lots` less `debt`. Without them everything that is left came in as its lots say, and nothing else ever did. A payment is an operation of its own, under its reference, and can be refunded or disputed later. What has fallen due since `asOf` is posted at once. `totals` come to the tokens of all lots less `debt`, and hold what lots and payments were granted. No time is after `asOf`. A lot names a payment of the list; nothing is named twice. */
  importAccount(fields: Fields<contract.ImportAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.import", ...fields }, options);
  }

  /** Stops usage and holds of an account, as after a fraud warning; credit is still posted.
   *
   * One about a payment that isn't there yet waits for it. */
  freezeAccount(fields: Fields<contract.FreezeAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.freeze", ...fields }, options);
  }

  /** Lets an account be used again. */
  unfreezeAccount(fields: Fields<contract.UnfreezeAccount>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "account.unfreeze", ...fields }, options);
  }

  /** Takes tokens, or is rejected for insufficient balance. Analytics group by `feature`.
   *
   * `tokens` may be 0: the usage is applied and moves nothing. */
  deduct(fields: Fields<contract.DeductUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.deduct", ...fields }, options);
  }

  /** Counts bytes against the tier's free-upload limit of the period; 0 bytes move nothing. */
  freeUpload(fields: Fields<contract.FreeUpload>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.free_upload", ...fields }, options);
  }

  /** Holds tokens for work whose price is not known yet; they can't be spent otherwise meanwhile.
   *
   * After `ttlSeconds` (to 31 days) the hold runs out by itself. Its name is this reference. */
  reserve(fields: Fields<contract.ReserveUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.reserve", ...fields }, options);
  }

  /** Renews the hold `originalReferenceId`: it ends `ttlSeconds` from now, never earlier than before.
   *
   * A hold that has run out is closed, whether or not somebody has posted its end. `originalReferenceId` must differ from `referenceId`. */
  extend(fields: Fields<contract.ExtendUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.extend", ...fields }, options);
  }

  /** Captures the actual amount of the hold `originalReferenceId` and releases the rest.
   *
   * `tokens` may be 0. Where they are more than was held, the difference is taken from what is available (`onExcess: take`), or the command is refused (`refuse`). Where the hold had run out before, up to `tokens` are taken from what is available (`onExpired: take`), once; or the command is refused. `originalReferenceId` must differ from `referenceId`. */
  settle(fields: Fields<contract.SettleUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.settle", ...fields }, options);
  }

  /** Gives the hold `originalReferenceId` up; its tokens are available again. `originalReferenceId` must differ from `referenceId`. */
  release(fields: Fields<contract.ReleaseUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.release", ...fields }, options);
  }

  /** Meters usage: `quantity` units of `meter`, from the tier's free units first, then for tokens.
   *
   * `quantity` may be 0: the usage is applied and moves nothing. */
  record(fields: Fields<contract.RecordUsage>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.record", ...fields }, options);
  }

  /** Credits a token package, base and bonus, and records the payment.
   *
   * The reference is the payment's own id at the gateway, so that two events about one payment are one; `alsoKnownAs` are its other names, and either finds it. The package is named by `packageId`, or by its position in the catalog, from 0. `amountMinor` is what the gateway captured, gross: the basis of all later proportions, 0 for a full discount. The other amounts are its parts, as far as they are known: `amount = list − discount + tax + other`. The catalog's price is compared with the list price. */
  paymentSucceeded(fields: Fields<contract.PaymentSucceeded>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.succeeded", ...fields }, options);
  }

  /** Gives a payment more names, so that its events find it by any of them.
   *
   * A gateway may say them late, and never in the payment itself. The reference is the gateway's own id of what joins the two. It may come before the payment, and before or after what names it: the names are of one payment from then on, whichever of them that comes with. A name that is another payment's is refused. `originalReferenceId` must differ from `referenceId`. */
  paymentNamed(fields: Fields<contract.PaymentNamed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.named", ...fields }, options);
  }

  /** Takes back tokens and bonus in proportion to the money that went back, all or a part.
   *
   * The reference is the refund's own id. `amountMinor` is what this refund gave back; for gateways that send cumulative amounts `refundedTotalMinor` is what all refunds of the payment have given back by `occurredAt`: of totals the latest counts. However much it is, never more than was paid counts. `originalReferenceId` must differ from `referenceId`. */
  paymentRefunded(fields: Fields<contract.PaymentRefunded>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.refunded", ...fields }, options);
  }

  /** Takes a refund back that failed or was canceled after it had succeeded: it no longer counts.
   *
   * `refundReferenceId` is the reference of its `payment.refunded`, which may come later than this. `originalReferenceId` must differ from `referenceId`. `refundReferenceId` must differ from `referenceId`. */
  refundFailed(fields: Fields<contract.RefundFailed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.refund_failed", ...fields }, options);
  }

  /** Records an opened dispute. The catalog's `on_dispute` says whether that alone takes tokens back.
   *
   * Of the `stage` inquiry no money has moved: it never takes tokens. Without it the stage is chargeback. `originalReferenceId` must differ from `referenceId`. */
  paymentDisputed(fields: Fields<contract.PaymentDisputed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.disputed", ...fields }, options);
  }

  /** Records a decided dispute: `lost` takes tokens back like a refund, any other result gives them back.
   *
   * Of several closings of one dispute the latest by `occurredAt` counts; one without a time is older than any with; of two at one time `lost` counts. `amountMinor` is what this closing took. `originalReferenceId` must differ from `referenceId`. */
  disputeClosed(fields: Fields<contract.DisputeClosed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.dispute_closed", ...fields }, options);
  }

  /** Takes back all that a payment bought which failed for good, also after it had succeeded.
   *
   * Where both events say when they occurred and the failure is the earlier one, the success stands. `originalReferenceId` must differ from `referenceId`. */
  paymentFailed(fields: Fields<contract.PaymentFailed>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "payment.failed", ...fields }, options);
  }

  /** Gives tokens back that the usage `originalReferenceId` took, to where they came from.
   *
   * However many refunds name one usage, together they never give back more than it took. Without an original it is refused, unless the catalog says otherwise (`refunds.unbound`). The usage's free units go back to the period they came from while that runs: `freeQuantity` of them; without it all, where the refund gives back the last of its tokens. Without `freeQuantity` more `tokens` than are left of usage with free units give back all that is left of both. `originalReferenceId` must differ from `referenceId`. */
  refund(fields: Fields<contract.RefundCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.refund", ...fields }, options);
  }

  /** Gives promotional tokens, from `effectiveAt` (or now) until before `expiresAt` (or for ever).
   *
   * Credit of a lower `priority` (0 to 1000) is spent first; without one the catalog's for bonuses holds. `expiresAt` must be after `effectiveAt`. */
  bonus(fields: Fields<contract.BonusCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.bonus", ...fields }, options);
  }

  /** An operator's correction: positive `tokens` give, negative ones take. It names reason and actor.
   *
   * It never takes the balance below zero, unless `allowNegative` says so. */
  adjust(fields: Fields<contract.AdjustCredit>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "credit.adjust", ...fields }, options);
  }

  /** Moves to another tier, at once or with the next period, and takes a cancellation back.
   *
   * In mid-period an upgrade grants what the new tier has more than the most that was granted in this period, so that going up and down and up again grants nothing twice. A downgrade grants nothing and takes nothing. With `effectiveAt` period_end all of the present tier stays until then. `periodEnd` must be after `periodStart`. */
  changeSubscription(fields: Fields<contract.ChangeSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.change", ...fields }, options);
  }

  /** Grants the allocation of a period: the one that contains `periodStart`, by default the present one.
   *
   * A period is granted once, whatever the references. Calendars differ: within a day of its end, a period that is granted stands for the one that follows, whose allocation takes effect when it begins. `periodEnd` must be after `periodStart`. */
  renewSubscription(fields: Fields<contract.RenewSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.renew", ...fields }, options);
  }

  /** Ends the subscription with the period that is granted, or `now`: then its allocation ends as well.
   *
   * What was bought or given otherwise stays. `subscription.change` takes it up again. */
  cancelSubscription(fields: Fields<contract.CancelSubscription>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "subscription.cancel", ...fields }, options);
  }

  /** Up to 1,000 usage commands in one message: each with its own reference and outcome, one reply to all.
   *
   * An item without `userId` is the batch's user's. The items are applied in order, in one transaction; the batch's own reference names its reply and nothing in the ledger. Items have no `replies`: the batch says which it wants. */
  batch(fields: Fields<contract.UsageBatch>, options?: CommandOptions): Promise<Result> {
    return this.request({ type: "usage.batch", ...fields }, options);
  }
}
