// The API's types, by the names that its description gives its operations.

import type { operations, webhooks } from "./openapi.js";

type Content<T> = T extends { content: infer C } ? C[keyof C] : undefined;

/** What an operation answers with a status. */
export type AnswerOf<Op extends keyof operations, Status = 200> = operations[Op] extends { responses: infer R }
  ? Status extends keyof R
    ? Content<R[Status]>
    : never
  : never;

/** What an operation takes as its body. */
export type BodyOf<Op extends keyof operations> = operations[Op] extends { requestBody?: infer B }
  ? Content<NonNullable<B>>
  : never;

export type OrganizationState = AnswerOf<"getState">;
export type Subscription = AnswerOf<"getSubscription">;
export type ActionRequired = AnswerOf<"changeSubscription", 202>;
export type Preview = AnswerOf<"previewSubscription">;
export type PreviewRequest = BodyOf<"previewSubscription">;
export type NewSubscription = BodyOf<"createSubscription">;
export type PlanChange = BodyOf<"changeSubscription">;
export type Cancellation = NonNullable<BodyOf<"cancelSubscription">>;
export type Plan = AnswerOf<"listPlans">["data"][number];
export type Usage = AnswerOf<"listUsage">["data"][number];
export type Quota = AnswerOf<"listQuotas">["data"][number];
export type GracePeriod = AnswerOf<"listGracePeriods">["data"][number];
export type Invoice = AnswerOf<"listInvoices">["data"][number];
export type UpcomingInvoice = AnswerOf<"getUpcomingInvoice">;
export type PaymentMethod = AnswerOf<"listPaymentMethods">["data"][number];
export type Features = AnswerOf<"getFeatures">;
export type NewCheckout = BodyOf<"beginCheckout">;
export type Checkout = AnswerOf<"beginCheckout", 201>;
export type CompletedCheckout = AnswerOf<"completeCheckout">;
export type Organization = AnswerOf<"getOrganization">;
export type NewOrganization = BodyOf<"putOrganization">;
export type OrganizationPatch = BodyOf<"patchOrganization">;

/** A page of a list. */
export interface Page<T> {
  data: T[];
  nextCursor: string | null;
}

type EventOf<W> = W extends { post: { requestBody?: infer B } } ? Content<NonNullable<B>> : never;

/** An event as the service sends it. `type` tells what `data` is. */
export type BillingEvent = EventOf<webhooks[keyof webhooks]>;
