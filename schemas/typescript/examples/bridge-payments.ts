// Bridge payments: the gateway's webhook becomes a command. It may come late, twice, or in any order.

import { BillingRefused } from "@billing-worker/client";
import type { Billing, Result } from "@billing-worker/client";

/** A payment gateway's event, after its signature was checked. A refund names no user: the ledger knows. */
export type GatewayEvent = PaymentPaid | PaymentRefunded;

interface OfPayment {
  /** The gateway's name, such as "stripe": its ids are unique with that alone. */
  readonly gateway: string;
  readonly paymentId: string;
  readonly amountMinor: number;
  readonly currency: string;
}

interface PaymentPaid extends OfPayment {
  readonly type: "payment.paid";
  readonly userId: string;
  readonly packageId: string;
}

interface PaymentRefunded extends OfPayment {
  readonly type: "payment.refunded";
  readonly refundId: string;
}

/** Apply an event. Throw where it must come again: the webhook then answers 500, and the gateway repeats it. */
export async function onGatewayEvent(billing: Billing, event: GatewayEvent): Promise<Result | null> {
  const { gateway, amountMinor, currency } = event;
  const payment = `${gateway}:${event.paymentId}`; // <gateway>:<object>, never the event's own id
  try {
    if (event.type === "payment.paid") {
      const { userId, packageId } = event;
      const paid = { userId, packageId, amountMinor, currency, provider: gateway };
      return await billing.paymentSucceeded({ referenceId: payment, ...paid });
    }
    const refund = { originalReferenceId: payment, amountMinor, currency };
    return await billing.paymentRefunded({ referenceId: `${gateway}:${event.refundId}`, ...refund });
  } catch (error) {
    if (error instanceof BillingRefused) return null; // it never gets better: the worker's operators have it
    throw error;
  }
}
