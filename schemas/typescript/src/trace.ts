// Trace context by W3C: the header that ties a message to the request which caused it.

import { BillingRefused } from "./errors.js";

const FORM = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Refuse a `traceparent` that is none: a worker would ignore it. */
export function requireTraceparent(traceparent: string | undefined): void {
  if (traceparent === undefined || FORM.test(traceparent)) return;
  throw new BillingRefused(
    "traceparent: W3C's form is 00-TRACE-SPAN-FLAGS; leave it out otherwise",
    "traceparent",
  );
}

/** Return the trace context of a message that came; undefined without one. */
export function traceIn(headers: Record<string, unknown> | undefined): string | undefined {
  const value = headers?.["traceparent"];
  return typeof value === "string" && FORM.test(value) ? value : undefined;
}
