// Written by `npm run generate` from ../contract/messages.schema.json. Do not edit.

export type Command =
  | OpenAccount
  | ImportAccount
  | SettleAccount
  | FreezeAccount
  | UnfreezeAccount
  | DeductUsage
  | FreeUpload
  | ReserveUsage
  | ExtendUsage
  | SettleUsage
  | ReleaseUsage
  | RecordUsage
  | PaymentSucceeded
  | PaymentNamed
  | PaymentRefunded
  | RefundFailed
  | PaymentDisputed
  | DisputeClosed
  | PaymentFailed
  | RefundCredit
  | BonusCredit
  | AdjustCredit
  | ChangeSubscription
  | RenewSubscription
  | CancelSubscription
  | UsageBatch;
/**
 * Opaque: nothing is read out of an id, and no personal data belongs in one. Unicode in the form NFC.
 */
export type Identifier = string;
export type Time = string;
export type Metadata = {[key: string]: string | number | bigint | boolean | null};
export type Text = string;
export type Currency = string;
export type Label = string;
export type Query = QueryBalance | QueryAfford | QueryHistory | QueryUsage | QueryStats | QueryOperation | QueryCatalog;
export type StoredIdentifier = string;
export type GroupBy = string;
export type Answer =
  | BalanceAnswer
  | AffordAnswer
  | HistoryAnswer
  | UsageAnswer
  | StatsAnswer
  | OperationAnswer
  | CatalogAnswer
  | QueryProblem;
/**
 * Stable reasons, one set for all replies. Names are never reused or renamed.
 */
export type Code =
  | "account_opened"
  | "tokens_deducted"
  | "free_upload_counted"
  | "tokens_purchased"
  | "tokens_refunded"
  | "bonus_granted"
  | "bonus_scheduled"
  | "adjustment_credited"
  | "adjustment_debited"
  | "account_settled"
  | "tokens_reserved"
  | "hold_settled"
  | "hold_released"
  | "hold_extended"
  | "hold_settled_late"
  | "usage_recorded"
  | "batch_processed"
  | "subscription_changed"
  | "subscription_renewed"
  | "renewal_scheduled"
  | "subscription_canceled"
  | "payment_refunded"
  | "payment_disputed"
  | "dispute_won"
  | "dispute_lost"
  | "payment_failed"
  | "payment_awaited"
  | "account_imported"
  | "payment_imported"
  | "purchase_flagged"
  | "refund_failed"
  | "refund_style_mixed"
  | "inquiry_opened"
  | "dispute_prevented"
  | "dispute_withdrawn"
  | "change_scheduled"
  | "freeze_began"
  | "freeze_ended"
  | "cancellation_late"
  | "payment_named"
  | "insufficient_balance"
  | "account_not_found"
  | "account_exists"
  | "free_upload_limit_exceeded"
  | "unknown_package"
  | "unknown_tier"
  | "amount_mismatch"
  | "currency_mismatch"
  | "hold_not_found"
  | "hold_closed"
  | "hold_exceeded"
  | "unknown_meter"
  | "original_required"
  | "original_not_found"
  | "original_not_refundable"
  | "refund_exceeds_original"
  | "credit_expired"
  | "period_already_granted"
  | "period_out_of_range"
  | "subscription_not_active"
  | "too_late"
  | "reference_taken"
  | "allocation_outlasts_period"
  | "account_frozen"
  | "reference_conflict"
  | "malformed"
  | "unprocessable";
/**
 * Result of the command.
 */
export type Status = "applied" | "rejected" | "failed";
/**
 * Stable reasons why a query has no answer.
 */
export type ProblemCode =
  "account_not_found" | "malformed" | "not_allowed" | "sequence_not_reached" | "unavailable" | "unprocessable";
export type Notice = BalanceLow | BalanceDepleted | CreditExpiring | PaymentRejected;
/**
 * Stable reasons why a message became a dead letter. Names are never reused or renamed.
 *
 * Those of the first group are also the `reason` of a reply with the code `malformed`. A dead letter read from the wire may hold another one: an older or newer worker wrote it.
 */
export type DeadLetterReason =
  | "body_too_large"
  | "byte_order_mark"
  | "not_utf8"
  | "not_json"
  | "too_deep"
  | "duplicate_field"
  | "not_an_object"
  | "missing_field"
  | "unknown_field"
  | "unknown_type"
  | "invalid_field"
  | "invalid_id"
  | "wrong_sender"
  | "wrong_routing_key"
  | "wrong_exchange"
  | "wrong_lane"
  | "unreadable_properties"
  | "reference_conflict"
  | "unprocessable"
  | "delivery_limit"
  | "notice_refused"
  | "rejected"
  | "expired"
  | "maxlen"
  | "unknown";

/**
 * Opens a balance on a subscription tier and grants the first period's allocation.
 *
 * Periods are months counted from the moment of opening (UTC): from the 31st, a shorter month's period begins on its last day.
 */
export interface OpenAccount {
  type: "account.open";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  tier: Identifier;
}
/**
 * Opens an account with all that it had in another system at `asOf`. Grants nothing by itself.
 *
 * Periods count from `anchor`; the allocation of the period at `asOf` counts as granted. `totals` must come to the balance: the tokens of all `lots` less `debt`. Without them everything that is left came in as its lots say, and nothing else ever did. A payment is an operation of its own, under its reference, and can be refunded or disputed later. What has fallen due since `asOf` is posted at once. `totals` come to the tokens of all lots less `debt`, and hold what lots and payments were granted. No time is after `asOf`. A lot names a payment of the list; nothing is named twice.
 */
export interface ImportAccount {
  type: "account.import";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  tier: Identifier;
  /**
   * Not before 1970.
   */
  openedAt: string;
  /**
   * Not before 1970.
   */
  anchor: string;
  /**
   * Not before 1970.
   */
  asOf: string;
  /**
   * @maxItems 200
   */
  lots?: ImportedLot[] | undefined;
  debt?: number | undefined;
  totals?: ImportedTotals | null | undefined;
  /**
   * @maxItems 50
   */
  quotas?: ImportedQuota[] | undefined;
  /**
   * @maxItems 500
   */
  payments?: ImportedPayment[] | undefined;
}
/**
 * Credit: `tokens` are left of `granted` (by default no more were), until `expiresAt`.
 *
 * The allocation of the present period should say what it granted, also where nothing is left: an upgrade grants what the new tier has more. A lot of `paymentReferenceId` is what is left of that payment's tokens, or of its bonus. `tokens` are at most `granted`. A lot that names its payment is a purchase or a purchase_bonus, and leaves `granted` out.
 */
export interface ImportedLot {
  source: "allocation" | "purchase" | "purchase_bonus" | "bonus" | "refund" | "adjustment" | "carried_over";
  tokens: number;
  granted?: number | null | undefined;
  expiresAt?: Time | null | undefined;
  priority?: number | null | undefined;
  paymentReferenceId?: Identifier | null | undefined;
}
/**
 * Lifetime sums of the account. `adjusted` and `reversed` may be negative.
 */
export interface ImportedTotals {
  allocated?: number | undefined;
  purchased?: number | undefined;
  bonus?: number | undefined;
  refunded?: number | undefined;
  adjusted?: number | undefined;
  used?: number | undefined;
  expired?: number | undefined;
  reversed?: number | undefined;
}
/**
 * Used part of a quota in the present period: a meter's, or `free_upload` in bytes.
 */
export interface ImportedQuota {
  meter: Identifier;
  used: number;
}
/**
 * Payment that was taken before, under its own id, with the tokens it bought: it may go back later.
 */
export interface ImportedPayment {
  referenceId: Identifier;
  amountMinor: number;
  currency: Currency;
  packageId: Identifier;
  tokens: number;
  bonusTokens?: number | undefined;
  /**
   * Not before 1970.
   */
  paidAt: string;
  provider?: Label | null | undefined;
}
/**
 * Posts what is due: holds that ran out, credit that expired or takes effect, free renewals.
 *
 * The scheduler sends it. Nothing depends on its coming: any command that is applied does the same first, and reads count what is due.
 */
export interface SettleAccount {
  type: "account.settle";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
}
/**
 * Stops usage and holds of an account, as after a fraud warning; credit is still posted.
 *
 * One about a payment that isn't there yet waits for it.
 */
export interface FreezeAccount {
  type: "account.freeze";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  paymentReferenceId?: Identifier | null | undefined;
  reason: Label;
}
/**
 * Lets an account be used again.
 */
export interface UnfreezeAccount {
  type: "account.unfreeze";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  paymentReferenceId?: Identifier | null | undefined;
  reason: Label;
}
/**
 * Takes tokens, or is rejected for insufficient balance. Analytics group by `feature`.
 *
 * `tokens` may be 0: the usage is applied and moves nothing.
 */
export interface DeductUsage {
  type: "usage.deduct";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  tokens: number;
  feature?: Label | null | undefined;
}
/**
 * Counts bytes against the tier's free-upload limit of the period; 0 bytes move nothing.
 */
export interface FreeUpload {
  type: "usage.free_upload";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  bytes: number;
}
/**
 * Holds tokens for work whose price is not known yet; they can't be spent otherwise meanwhile.
 *
 * After `ttlSeconds` (to 31 days) the hold runs out by itself. Its name is this reference.
 */
export interface ReserveUsage {
  type: "usage.reserve";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  tokens: number;
  ttlSeconds: number;
}
/**
 * Renews the hold `originalReferenceId`: it ends `ttlSeconds` from now, never earlier than before.
 *
 * A hold that has run out is closed, whether or not somebody has posted its end. `originalReferenceId` must differ from `referenceId`.
 */
export interface ExtendUsage {
  type: "usage.extend";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  originalReferenceId: Identifier;
  ttlSeconds: number;
}
/**
 * Captures the actual amount of the hold `originalReferenceId` and releases the rest.
 *
 * `tokens` may be 0. Where they are more than was held, the difference is taken from what is available (`onExcess: take`), or the command is refused (`refuse`). Where the hold had run out before, up to `tokens` are taken from what is available (`onExpired: take`), once; or the command is refused. `originalReferenceId` must differ from `referenceId`.
 */
export interface SettleUsage {
  type: "usage.settle";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  originalReferenceId: Identifier;
  tokens: number;
  onExcess?: "refuse" | "take" | undefined;
  onExpired?: "take" | "refuse" | undefined;
  feature?: Label | null | undefined;
}
/**
 * Gives the hold `originalReferenceId` up; its tokens are available again. `originalReferenceId` must differ from `referenceId`.
 */
export interface ReleaseUsage {
  type: "usage.release";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  originalReferenceId: Identifier;
}
/**
 * Meters usage: `quantity` units of `meter`, from the tier's free units first, then for tokens.
 *
 * `quantity` may be 0: the usage is applied and moves nothing.
 */
export interface RecordUsage {
  type: "usage.record";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  meter: Label;
  quantity: number;
  feature?: Label | null | undefined;
}
/**
 * Credits a token package, base and bonus, and records the payment.
 *
 * The reference is the payment's own id at the gateway, so that two events about one payment are one; `alsoKnownAs` are its other names, and either finds it. The package is named by `packageId`, or by its position in the catalog, from 0. `amountMinor` is what the gateway captured, gross: the basis of all later proportions, 0 for a full discount. The other amounts are its parts, as far as they are known: `amount = list − discount + tax + other`. The catalog's price is compared with the list price.
 */
export interface PaymentSucceeded {
  type: "payment.succeeded";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  packageId?: Identifier | null | undefined;
  packageIndex?: number | null | undefined;
  quantity?: number | null | undefined;
  amountMinor: number;
  currency: Currency;
  listMinor?: number | null | undefined;
  taxMinor?: number | null | undefined;
  discountMinor?: number | null | undefined;
  otherMinor?: number | null | undefined;
  provider?: Label | null | undefined;
  alsoKnownAs?: Identifier[] | null | undefined;
}
/**
 * Gives a payment more names, so that its events find it by any of them.
 *
 * A gateway may say them late, and never in the payment itself. The reference is the gateway's own id of what joins the two. It may come before the payment, and before or after what names it: the names are of one payment from then on, whichever of them that comes with. A name that is another payment's is refused. `originalReferenceId` must differ from `referenceId`.
 */
export interface PaymentNamed {
  type: "payment.named";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
  /**
   * @minItems 1
   * @maxItems 10
   */
  alsoKnownAs: Identifier[];
}
/**
 * Takes back tokens and bonus in proportion to the money that went back, all or a part.
 *
 * The reference is the refund's own id. `amountMinor` is what this refund gave back; for gateways that send cumulative amounts `refundedTotalMinor` is what all refunds of the payment have given back by `occurredAt`: of totals the latest counts. However much it is, never more than was paid counts. `originalReferenceId` must differ from `referenceId`.
 */
export interface PaymentRefunded {
  type: "payment.refunded";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
  amountMinor?: number | null | undefined;
  refundedTotalMinor?: number | null | undefined;
  currency: Currency;
}
/**
 * Takes a refund back that failed or was canceled after it had succeeded: it no longer counts.
 *
 * `refundReferenceId` is the reference of its `payment.refunded`, which may come later than this. `originalReferenceId` must differ from `referenceId`. `refundReferenceId` must differ from `referenceId`.
 */
export interface RefundFailed {
  type: "payment.refund_failed";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
  refundReferenceId: Identifier;
}
/**
 * Records an opened dispute. The catalog's `on_dispute` says whether that alone takes tokens back.
 *
 * Of the `stage` inquiry no money has moved: it never takes tokens. Without it the stage is chargeback. `originalReferenceId` must differ from `referenceId`.
 */
export interface PaymentDisputed {
  type: "payment.disputed";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
  disputeId: Identifier;
  stage?: ("inquiry" | "chargeback") | null | undefined;
  amountMinor: number;
  currency: Currency;
}
/**
 * Records a decided dispute: `lost` takes tokens back like a refund, any other result gives them back.
 *
 * Of several closings of one dispute the latest by `occurredAt` counts; one without a time is older than any with; of two at one time `lost` counts. `amountMinor` is what this closing took. `originalReferenceId` must differ from `referenceId`.
 */
export interface DisputeClosed {
  type: "payment.dispute_closed";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
  disputeId: Identifier;
  result: "won" | "lost" | "prevented" | "withdrawn";
  amountMinor: number;
  currency: Currency;
}
/**
 * Takes back all that a payment bought which failed for good, also after it had succeeded.
 *
 * Where both events say when they occurred and the failure is the earlier one, the success stands. `originalReferenceId` must differ from `referenceId`.
 */
export interface PaymentFailed {
  type: "payment.failed";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  originalReferenceId: Identifier;
}
/**
 * Gives tokens back that the usage `originalReferenceId` took, to where they came from.
 *
 * However many refunds name one usage, together they never give back more than it took. Without an original it is refused, unless the catalog says otherwise (`refunds.unbound`). The usage's free units go back to the period they came from while that runs: `freeQuantity` of them; without it all, where the refund gives back the last of its tokens. Without `freeQuantity` more `tokens` than are left of usage with free units give back all that is left of both. `originalReferenceId` must differ from `referenceId`.
 */
export interface RefundCredit {
  type: "credit.refund";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  tokens: number;
  freeQuantity?: number | null | undefined;
  originalReferenceId?: Identifier | null | undefined;
}
/**
 * Gives promotional tokens, from `effectiveAt` (or now) until before `expiresAt` (or for ever).
 *
 * Credit of a lower `priority` (0 to 1000) is spent first; without one the catalog's for bonuses holds. `expiresAt` must be after `effectiveAt`.
 */
export interface BonusCredit {
  type: "credit.bonus";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  tokens: number;
  effectiveAt?: Time | null | undefined;
  expiresAt?: Time | null | undefined;
  priority?: number | null | undefined;
}
/**
 * An operator's correction: positive `tokens` give, negative ones take. It names reason and actor.
 *
 * It never takes the balance below zero, unless `allowNegative` says so.
 */
export interface AdjustCredit {
  type: "credit.adjust";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  tokens: number;
  reason: string;
  actor: Label;
  allowNegative?: boolean | undefined;
  expiresAt?: Time | null | undefined;
}
/**
 * Moves to another tier, at once or with the next period, and takes a cancellation back.
 *
 * In mid-period an upgrade grants what the new tier has more than the most that was granted in this period, so that going up and down and up again grants nothing twice. A downgrade grants nothing and takes nothing. With `effectiveAt` period_end all of the present tier stays until then. `periodEnd` must be after `periodStart`.
 */
export interface ChangeSubscription {
  type: "subscription.change";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  periodStart?: Time | null | undefined;
  periodEnd?: Time | null | undefined;
  payment?: SubscriptionPayment | null | undefined;
  tier: Identifier;
  effectiveAt?: ("now" | "period_end") | null | undefined;
}
/**
 * Payment of a subscription's period: its own id at the gateway, and what was captured, gross.
 *
 * What happens to it later takes the period's allocation in proportion.
 */
export interface SubscriptionPayment {
  referenceId: Identifier;
  amountMinor: number;
  currency: Currency;
  alsoKnownAs?: Identifier[] | null | undefined;
  provider?: Label | null | undefined;
}
/**
 * Grants the allocation of a period: the one that contains `periodStart`, by default the present one.
 *
 * A period is granted once, whatever the references. Calendars differ: within a day of its end, a period that is granted stands for the one that follows, whose allocation takes effect when it begins. `periodEnd` must be after `periodStart`.
 */
export interface RenewSubscription {
  type: "subscription.renew";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  periodStart?: Time | null | undefined;
  periodEnd?: Time | null | undefined;
  payment?: SubscriptionPayment | null | undefined;
}
/**
 * Ends the subscription with the period that is granted, or `now`: then its allocation ends as well.
 *
 * What was bought or given otherwise stays. `subscription.change` takes it up again.
 */
export interface CancelSubscription {
  type: "subscription.cancel";
  referenceId: Identifier;
  userId: Identifier;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  at?: "period_end" | "now" | undefined;
}
/**
 * Up to 1,000 usage commands in one message: each with its own reference and outcome, one reply to all.
 *
 * An item without `userId` is the batch's user's. The items are applied in order, in one transaction; the batch's own reference names its reply and nothing in the ledger. Items have no `replies`: the batch says which it wants.
 */
export interface UsageBatch {
  type: "usage.batch";
  referenceId: Identifier;
  userId?: Identifier | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  /**
   * @minItems 1
   * @maxItems 1000
   */
  items: (DeductUsageItem | RecordUsageItem | FreeUploadItem)[];
}
/**
 * Takes tokens, or is rejected for insufficient balance. Analytics group by `feature`.
 *
 * `tokens` may be 0: the usage is applied and moves nothing.
 */
export interface DeductUsageItem {
  type: "usage.deduct";
  referenceId: Identifier;
  userId?: Identifier | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  tokens: number;
  feature?: Label | null | undefined;
}
/**
 * Meters usage: `quantity` units of `meter`, from the tier's free units first, then for tokens.
 *
 * `quantity` may be 0: the usage is applied and moves nothing.
 */
export interface RecordUsageItem {
  type: "usage.record";
  referenceId: Identifier;
  userId?: Identifier | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  meter: Label;
  quantity: number;
  feature?: Label | null | undefined;
}
/**
 * Counts bytes against the tier's free-upload limit of the period; 0 bytes move nothing.
 */
export interface FreeUploadItem {
  type: "usage.free_upload";
  referenceId: Identifier;
  userId?: Identifier | undefined;
  occurredAt?: Time | null | undefined;
  metadata?: Metadata | null | undefined;
  attempt?: number | undefined;
  description?: Text | null | undefined;
  replies?: ("all" | "problems" | "none") | null | undefined;
  openTier?: Identifier | null | undefined;
  validUntil?: Time | null | undefined;
  bytes: number;
}
/**
 * Asks for the state of an account, now or `at` another time; what is due counts.
 */
export interface QueryBalance {
  type: "query.balance";
  userId: StoredIdentifier;
  minSequence?: number | null | undefined;
  /**
   * In the years 1970 to 2199.
   */
  at?: Time | null | undefined;
}
/**
 * Asks whether a usage would be applied now: `tokens` at once, or `quantity` units of `meter`.
 */
export interface QueryAfford {
  type: "query.afford";
  userId: StoredIdentifier;
  minSequence?: number | null | undefined;
  tokens?: number | null | undefined;
  meter?: Label | null | undefined;
  quantity?: number | null | undefined;
}
/**
 * Asks for a page of an account's transactions, newest first.
 *
 * `cursor` is the `nextCursor` of the page before; `offset` counts newer transactions instead, and goes without filters. `from` is included and `to` is not; they compare the time of recording. `from` must be before `to`.
 */
export interface QueryHistory {
  type: "query.history";
  userId: StoredIdentifier;
  minSequence?: number | null | undefined;
  limit?: number | undefined;
  offset?: number | null | undefined;
  cursor?: string | null | undefined;
  status?: "applied" | "rejected" | "all" | undefined;
  transactionType?: Label | null | undefined;
  feature?: Label | null | undefined;
  /**
   * In the years 1970 to 2199.
   */
  from?: Time | null | undefined;
  /**
   * In the years 1970 to 2199.
   */
  to?: Time | null | undefined;
}
/**
 * Asks for used tokens by local day: the last `days` with today, or the days `from` to `to`. `from` and `to` are at most 366 days, both included.
 */
export interface QueryUsage {
  type: "query.usage";
  userId: StoredIdentifier;
  minSequence?: number | null | undefined;
  days?: number | null | undefined;
  /**
   * In the years 1970 to 2199.
   */
  from?: string | null | undefined;
  /**
   * In the years 1970 to 2199.
   */
  to?: string | null | undefined;
  timezone?: string | undefined;
  groupBy?: GroupBy | null | undefined;
}
/**
 * Asks for totals of all accounts.
 */
export interface QueryStats {
  type: "query.stats";
}
/**
 * Asks for the stored outcome of a reference: what a caller needs after a time-out.
 */
export interface QueryOperation {
  type: "query.operation";
  referenceId: StoredIdentifier;
}
/**
 * Asks for packages, tiers and meters with their prices.
 */
export interface QueryCatalog {
  type: "query.catalog";
}
/**
 * State of an account, with what is due and not posted yet.
 *
 * `available` is what a deduction may take. `lots` are what remains, by source. `pending` takes effect later. `monthlyAllocation` is absent where the catalog lacks the tier. `nextCreditAt` is when the next credit is certain to come (a free tier's period, or a scheduled credit), of `nextCreditTokens`. An account with `frozenAt` takes no usage and no holds since then.
 */
export interface BalanceAnswer {
  type: "answer.balance";
  schemaVersion: number;
  asOf: string;
  userId: string;
  sequence: number;
  balance: number;
  held: number;
  available: number;
  debt: number;
  pending: number;
  balanceFormatted: string;
  heldFormatted: string;
  availableFormatted: string;
  lots: {
    [k: string]: number;
  };
  totals: Totals;
  subscription: SubscriptionStatus;
  monthlyAllocation?: number | undefined;
  monthlyAllocationFormatted?: string | undefined;
  quotas: QuotaStatus[];
  frozenAt?: string | undefined;
  nextCreditAt?: string | undefined;
  nextCreditTokens?: number | undefined;
  openedAt: string;
  updatedAt: string;
}
/**
 * Sums of an account's entries: `balance` is the first five less the last three.
 */
export interface Totals {
  allocated: number;
  purchased: number;
  bonus: number;
  refunded: number;
  adjusted: number;
  used: number;
  expired: number;
  reversed: number;
}
/**
 * Tier and its present period, from `periodStart` until before `periodEnd`.
 *
 * Allocations are granted until `grantedUntil`; from `endsAt` on nothing more is granted. `isActive` is false from then on.
 */
export interface SubscriptionStatus {
  tier: string;
  isActive: boolean;
  periodStart: string;
  periodEnd: string;
  grantedUntil: string;
  endsAt?: string | undefined;
}
/**
 * Free units of a period in `unit`. `limit` is absent where the catalog lacks the account's tier.
 */
export interface QuotaStatus {
  name: string;
  unit: string;
  limit?: number | undefined;
  used: number;
  remaining: number;
}
/**
 * Result that a usage would have now, and its price.
 *
 * `code` is that of the reply it would get. `required` tokens are its price, absent where it has none (an unknown meter); `freeQuantity` units of `quantity` are free.
 */
export interface AffordAnswer {
  type: "answer.afford";
  schemaVersion: number;
  asOf: string;
  userId: string;
  sequence: number;
  affordable: boolean;
  code: Code | (string & {});
  required?: number | undefined;
  available: number;
  shortfall: number;
  meter?: string | undefined;
  quantity?: number | undefined;
  freeQuantity?: number | undefined;
  chargedQuantity?: number | undefined;
}
/**
 * Page of transactions, newest first. `total` counts the posted ones; absent under a filter.
 */
export interface HistoryAnswer {
  type: "answer.history";
  schemaVersion: number;
  asOf: string;
  userId: string;
  sequence: number;
  transactions: Transaction[];
  limit: number;
  offset?: number | undefined;
  total?: number | undefined;
  hasMore: boolean;
  nextCursor?: string | undefined;
}
/**
 * One posted entry, or a refused operation, which has no `sequence` and an `amount` of 0.
 *
 * `amount` is positive where it was credited. Entries of one operation share `transactionId` and `referenceId`: a purchase with a bonus is two. `lot` is the number of the lot that moved, of `source`; absent where it was the account's debt. `dueAt` is when it fell due, where time brought it about and the operation only posted it.
 */
export interface Transaction {
  type: string;
  transactionId: string;
  referenceId: string;
  status: string;
  code: string;
  counter?: string | undefined;
  amount: number;
  balanceBefore?: number | undefined;
  balanceAfter?: number | undefined;
  sequence?: number | undefined;
  lot?: number | undefined;
  source?: string | undefined;
  feature?: string | undefined;
  description?: string | undefined;
  metadata?: {[key: string]: string | number | bigint | boolean | null} | undefined;
  dueAt?: string | undefined;
  occurredAt: string;
  recordedAt: string;
}
/**
 * Used tokens of a range of days; a refund doesn't lower them.
 *
 * `averageDaily` is over all days, rounded down; `projectedMonthly` is for 30 of them. The first thousand `groups` are named, most used first; `otherGroups` are the tokens of all others.
 */
export interface UsageAnswer {
  type: "answer.usage";
  schemaVersion: number;
  asOf: string;
  userId: string;
  sequence: number;
  period: UsagePeriod;
  timezone: string;
  total: number;
  averageDaily: number;
  projectedMonthly: number;
  dailyUsage: DayUsage[];
  usageByType: TypeUsage[];
  groupBy?: string | undefined;
  groups?: GroupUsage[] | undefined;
  otherGroups?: number | undefined;
}
/**
 * Local days, both included.
 */
export interface UsagePeriod {
  days: number;
  startDate: string;
  endDate: string;
}
/**
 * Used tokens of one local day.
 */
export interface DayUsage {
  date: string;
  tokens: number;
}
/**
 * Used tokens of one type of command, and their share in percent with two decimals.
 */
export interface TypeUsage {
  type: string;
  tokens: number;
  percentage: number;
}
/**
 * Used tokens of one group. `key` is absent for what has none: no feature, or not this metadata key.
 */
export interface GroupUsage {
  key?: string | undefined;
  tokens: number;
  percentage: number;
}
/**
 * Totals of all accounts, as they are posted.
 */
export interface StatsAnswer {
  type: "answer.stats";
  schemaVersion: number;
  asOf: string;
  users: number;
  balance: number;
  held: number;
  debt: number;
  totals: Totals;
  payments: number;
  accountsByTier: {
    [k: string]: number;
  };
  revenue: CurrencyRevenue[];
}
/**
 * Payments taken in one currency, in its minor units; what went back is not taken off.
 */
export interface CurrencyRevenue {
  currency: string;
  payments: number;
  amountMinor: number;
}
/**
 * Stored outcome of a reference as its reply (a `duplicate`); absent where none is stored yet.
 */
export interface OperationAnswer {
  type: "answer.operation";
  schemaVersion: number;
  asOf: string;
  referenceId: string;
  isKnown: boolean;
  reply?: Reply | undefined;
}
/**
 * One reply. Absent fields don't apply. Amounts are whole tokens, or bytes where `unit` says so.
 *
 * `duplicate` is true when the reference had its outcome before this delivery; everything else is then as it was in the first reply. `recordedAt` is when the outcome was stored. `held` is what holds keep of the balance, absent where that is nothing: available is balance minus held. `expired` counts the tokens that had run out and were taken off together with this. `sequence` is that of the account's last entry, where this wrote any: a query with that `minSequence` has seen it. `countedMinor` is the money of an event that counted for its payment, where that is less than it names. The reply to a batch has the replies to its `items`, in their order, and counts them: `failed` are those that are no commands.
 *
 * A reader of today takes the replies of later versions: it ignores their fields, and has their codes and statuses as text.
 */
export interface Reply {
  type?: string | undefined;
  schemaVersion?: number | undefined;
  status: Status;
  code: Code | (string & {});
  message: string;
  referenceId?: string | undefined;
  userId?: string | undefined;
  attempt?: number | undefined;
  duplicate: boolean;
  transactionId?: string | undefined;
  unit?: string | undefined;
  amount?: number | undefined;
  balanceBefore?: number | undefined;
  balanceAfter?: number | undefined;
  sequence?: number | undefined;
  required?: number | undefined;
  available?: number | undefined;
  shortfall?: number | undefined;
  used?: number | undefined;
  limit?: number | undefined;
  tier?: string | undefined;
  previousTier?: string | undefined;
  openedTier?: string | undefined;
  packageId?: string | undefined;
  baseTokens?: number | undefined;
  bonusTokens?: number | undefined;
  expected?: string | undefined;
  received?: string | undefined;
  field?: string | undefined;
  reason?: string | undefined;
  recordedAt?: string | undefined;
  originalReferenceId?: string | undefined;
  held?: number | undefined;
  released?: number | undefined;
  expired?: number | undefined;
  state?: string | undefined;
  meter?: string | undefined;
  quantity?: number | undefined;
  freeQuantity?: number | undefined;
  chargedQuantity?: number | undefined;
  amountMinor?: number | undefined;
  countedMinor?: number | undefined;
  listMinor?: number | undefined;
  paymentReferenceId?: string | undefined;
  uncollected?: number | undefined;
  debt?: number | undefined;
  actor?: string | undefined;
  effectiveAt?: string | undefined;
  expiresAt?: string | undefined;
  periodStart?: string | undefined;
  periodEnd?: string | undefined;
  validUntil?: string | undefined;
  applied?: number | undefined;
  rejected?: number | undefined;
  failed?: number | undefined;
  items?: Reply[] | undefined;
}
/**
 * All that is for sale. `hash` is another one after any change, and when a price begins to be valid.
 */
export interface CatalogAnswer {
  type: "answer.catalog";
  schemaVersion: number;
  asOf: string;
  hash: string;
  packages: CatalogPackage[];
  tiers: CatalogTier[];
  meters: CatalogMeter[];
}
/**
 * Package for sale; `index` is its `packageIndex`.
 *
 * `prices` are those valid at `asOf`, in minor units by currency; `priceMinor` and `currency` say the same where there is one. A package with `rates` has no prices: its tokens follow from the amount.
 */
export interface CatalogPackage {
  id: string;
  index: number;
  tokens: number;
  bonusTokens: number;
  priceMinor?: number | undefined;
  currency?: string | undefined;
  prices: {
    [k: string]: number;
  };
  rates: {
    [k: string]: CatalogRate;
  };
  validDays?: number | undefined;
  bonusValidDays?: number | undefined;
}
/**
 * Tokens for an amount that the buyer chooses: `tokens` for each `perMinor` units, rounded down.
 */
export interface CatalogRate {
  tokens: number;
  perMinor: number;
}
/**
 * Tier of a subscription, with its free units a period by quota.
 */
export interface CatalogTier {
  id: string;
  monthlyTokens: number;
  freeUploadBytes: number;
  freeUnits: {
    [k: string]: number;
  };
  rolloverTokens: number;
  autoRenew: boolean;
}
/**
 * Meter with its price: `tokens` for each `per` units, at least `minimumTokens`.
 */
export interface CatalogMeter {
  id: string;
  unit: string;
  per: number;
  tokens: number;
  rounding: string;
  minimumTokens: number;
  quota: string;
}
/**
 * Reason why a query has no answer. `query` is its type, where it can be read.
 */
export interface QueryProblem {
  type: "answer.problem";
  schemaVersion: number;
  asOf: string;
  code: ProblemCode | (string & {});
  message: string;
  query?: string | undefined;
  userId?: string | undefined;
  field?: string | undefined;
}
/**
 * One notice. The same one may come twice (at least once): `id` is then the same.
 *
 * `referenceId` is the operation that brought it about, `recordedAt` when. Of a balance: `available` tokens were at or below `mark`. Of credit: `tokens` of `lot` (its number in the account) end with `expiresAt`. Of a rejected payment: its `code`, and the money; its `userId` is absent where the message named none. A reader of today takes types of later versions, and ignores fields that it doesn't know.
 */
export interface BalanceLow {
  type: "balance.low";
  schemaVersion: number;
  id: string;
  userId: string;
  referenceId: string;
  recordedAt: string;
  available?: number | undefined;
  mark?: number | undefined;
  lot?: number | undefined;
  tokens?: number | undefined;
  source?: string | undefined;
  expiresAt?: string | undefined;
  code?: string | undefined;
  amountMinor?: number | undefined;
  currency?: string | undefined;
}
/**
 * One notice. The same one may come twice (at least once): `id` is then the same.
 *
 * `referenceId` is the operation that brought it about, `recordedAt` when. Of a balance: `available` tokens were at or below `mark`. Of credit: `tokens` of `lot` (its number in the account) end with `expiresAt`. Of a rejected payment: its `code`, and the money; its `userId` is absent where the message named none. A reader of today takes types of later versions, and ignores fields that it doesn't know.
 */
export interface BalanceDepleted {
  type: "balance.depleted";
  schemaVersion: number;
  id: string;
  userId: string;
  referenceId: string;
  recordedAt: string;
  available?: number | undefined;
  mark?: number | undefined;
  lot?: number | undefined;
  tokens?: number | undefined;
  source?: string | undefined;
  expiresAt?: string | undefined;
  code?: string | undefined;
  amountMinor?: number | undefined;
  currency?: string | undefined;
}
/**
 * One notice. The same one may come twice (at least once): `id` is then the same.
 *
 * `referenceId` is the operation that brought it about, `recordedAt` when. Of a balance: `available` tokens were at or below `mark`. Of credit: `tokens` of `lot` (its number in the account) end with `expiresAt`. Of a rejected payment: its `code`, and the money; its `userId` is absent where the message named none. A reader of today takes types of later versions, and ignores fields that it doesn't know.
 */
export interface CreditExpiring {
  type: "credit.expiring";
  schemaVersion: number;
  id: string;
  userId: string;
  referenceId: string;
  recordedAt: string;
  available?: number | undefined;
  mark?: number | undefined;
  lot?: number | undefined;
  tokens?: number | undefined;
  source?: string | undefined;
  expiresAt?: string | undefined;
  code?: string | undefined;
  amountMinor?: number | undefined;
  currency?: string | undefined;
}
/**
 * One notice. The same one may come twice (at least once): `id` is then the same.
 *
 * `referenceId` is the operation that brought it about, `recordedAt` when. Of a balance: `available` tokens were at or below `mark`. Of credit: `tokens` of `lot` (its number in the account) end with `expiresAt`. Of a rejected payment: its `code`, and the money; its `userId` is absent where the message named none. A reader of today takes types of later versions, and ignores fields that it doesn't know.
 */
export interface PaymentRejected {
  type: "payment.rejected";
  schemaVersion: number;
  id: string;
  userId?: string | undefined;
  referenceId: string;
  recordedAt: string;
  available?: number | undefined;
  mark?: number | undefined;
  lot?: number | undefined;
  tokens?: number | undefined;
  source?: string | undefined;
  expiresAt?: string | undefined;
  code?: string | undefined;
  amountMinor?: number | undefined;
  currency?: string | undefined;
}
