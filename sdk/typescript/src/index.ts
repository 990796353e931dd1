export { Billing, Organizations, type BillingOptions, type BillingStats } from "./billing.js";
export { BillingError, isBillingError, type ErrorDetails } from "./errors.js";
export { createBillingHandler, type HandlerOptions, type Visitor } from "./handler.js";
export type {
  CheckOptions,
  Confirmation,
  Decision,
  OnUnavailable,
  Reservation,
  ReserveOptions,
  TrackOptions,
} from "./metering.js";
export { OrganizationBilling, requiresAction, type CallOptions, type PageOptions } from "./organization.js";
export type { EventStorage, LostEvent, QueuedEvent, QueueOptions, QueueStats, UsageEvent } from "./queue.js";
export type { ErrorListener, StateListener, StateOptions } from "./state.js";
export type { RetryOptions } from "./transport.js";
export type * from "./types.js";
export { verifyWebhook, WebhookError, type HeaderSource, type VerifyOptions, type WebhookErrorCode } from "./webhook.js";
export type { components, operations, paths } from "./openapi.js";
