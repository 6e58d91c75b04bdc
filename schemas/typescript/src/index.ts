export { BillingClient } from "./client.js";
export type { ClientOptions } from "./client.js";
export * from "./errors.js";
export type * from "./generated/contract.js";
export type { Handler, ListenOptions, Subscription } from "./listening.js";
export { Billing } from "./vocabulary.js";
export type {
  AffordOptions,
  Applied,
  CommandOptions,
  Fields,
  NoticesOptions,
  Rejected,
  RepliesOptions,
  RequestOptions,
  Result,
  Usage,
} from "./vocabulary.js";
export { formatTokens } from "./formats.js";
export * from "./token-service.js";
export { FakeBillingClient } from "./fake.js";
