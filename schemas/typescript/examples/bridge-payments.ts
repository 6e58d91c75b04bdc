// Bridge payments: the gateway's webhook becomes a command. It may come late, twice, or in any order.

import { BillingRefused } from "@billing-worker/client";
import type { Billing, Result } from "@billing-worker/client";

/** A payment gateway's event, after its signature was checked. */
export interface GatewayEvent {
  readonly type: "payment.paid" | "payment.refunded";
  readonly paymentId: string;
  readonly refundId?: string;
  readonly userId: string;
  readonly packageId: string;
  readonly amountMinor: number;
  readonly currency: string;
}

/** Apply an event. Throw where it must come again: the webhook then answers 500, and the gateway repeats it. */
export async function onGatewayEvent(billing: Billing, event: GatewayEvent): Promise<Result | null> {
  const { userId, amountMinor, currency, paymentId, packageId } = event;
  try {
    if (event.type === "payment.paid") {
      const paid = { userId, packageId, amountMinor, currency, provider: "gateway" };
      return await billing.paymentSucceeded({ referenceId: paymentId, ...paid });
    }
    const refund = { userId, originalReferenceId: paymentId, amountMinor, currency };
    return await billing.paymentRefunded({
      referenceId: event.refundId ?? `${paymentId}/refund`,
      ...refund,
    });
  } catch (error) {
    if (error instanceof BillingRefused) return null; // it never gets better: the worker's operators have it
    throw error;
  }
}
