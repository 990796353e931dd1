// The calls of one customer.

import { newId } from "./ids.js";
import type { CheckOptions, Decision, Metering, Reservation, ReserveOptions, TrackOptions } from "./metering.js";
import type { ErrorListener, StateCache, StateListener } from "./state.js";
import type { Answer, Method, Transport } from "./transport.js";
import type {
  ActionRequired,
  AnswerOf,
  BodyOf,
  Cancellation,
  Checkout,
  CompletedCheckout,
  Features,
  GracePeriod,
  Invoice,
  NewCheckout,
  NewSubscription,
  OrganizationState,
  Page,
  PaymentMethod,
  Plan,
  PlanChange,
  Preview,
  PreviewRequest,
  Quota,
  Subscription,
  UpcomingInvoice,
  Usage,
} from "./types.js";

export interface CallOptions {
  signal?: AbortSignal;
  /** Send the same again later, by another process too, and nothing is done twice. Made here if it is left out. */
  idempotencyKey?: string;
}

export interface PageOptions extends CallOptions {
  limit?: number;
  cursor?: string;
}

type Quantity = number | bigint | string;

/** Whether a change waits for its payer: send them to `nextAction.hostedInvoiceUrl`, or hand the secret to Stripe.js. */
export function requiresAction(answer: Subscription | ActionRequired): answer is ActionRequired {
  return answer.status === "requires_action";
}

export class OrganizationBilling {
  /** As the service key names it; undefined with a credential of its own. */
  readonly id: string | undefined;
  readonly #transport: Transport;
  readonly #metering: Metering;
  readonly #state: () => StateCache;

  constructor(id: string | undefined, transport: Transport, metering: Metering, state: () => StateCache) {
    this.id = id;
    this.#transport = transport;
    this.#metering = metering;
    this.#state = state;
  }

  /** Whether a use is allowed; with `consume`, it is counted if it is. */
  check(metric: string, quantity: Quantity = 1, options: CheckOptions = {}): Promise<Decision> {
    return this.#metering.check(metric, quantity, options);
  }

  /** Reports a use that has happened. Returns its id at once; it is sent with others. */
  track(metric: string, quantity: Quantity = 1, options: TrackOptions = {}): string {
    return this.#metering.track(metric, quantity, options);
  }

  /** Holds a use before it happens. */
  reserve(metric: string, quantity: Quantity, options: ReserveOptions = {}): Promise<Reservation> {
    return this.#metering.reserve(metric, quantity, options);
  }

  /** Takes a use back that was counted by mistake. */
  takeBack(eventId: string): Promise<void> {
    return this.#metering.takeBack(eventId);
  }

  /** Everything in one document. */
  state(): Promise<OrganizationState> {
    return this.#state().get();
  }

  /** Calls `listener` with the state, and with each newer one, until the function that it returns is called. */
  watch(listener: StateListener, onError?: ErrorListener): () => void {
    return this.#state().watch(listener, onError);
  }

  async plans(options: CallOptions = {}): Promise<Plan[]> {
    const plans: Plan[] = [];
    let cursor: string | null | undefined;
    do {
      const page: Page<Plan> = await this.#get("/api/billing/plans", { ...options, ...(cursor ? { cursor } : {}), limit: 100 });
      plans.push(...page.data);
      cursor = page.nextCursor;
    } while (cursor);
    return plans;
  }

  features(options: CallOptions = {}): Promise<Features> {
    return this.#get("/api/billing/features", options);
  }

  async usage(options: CallOptions = {}): Promise<Usage[]> {
    return (await this.#get<Page<Usage>>("/api/billing/usage", options)).data;
  }

  usageOf(metric: string, options: CallOptions = {}): Promise<Usage> {
    return this.#get(`/api/billing/usage/${encodeURIComponent(metric)}`, options);
  }

  async quotas(options: CallOptions = {}): Promise<Quota[]> {
    return (await this.#get<Page<Quota>>("/api/billing/quotas", options)).data;
  }

  gracePeriods(options: PageOptions & { active?: boolean } = {}): Promise<Page<GracePeriod>> {
    const { active, ...page } = options;
    return this.#get("/api/billing/grace-periods", page, { active });
  }

  invoices(options: PageOptions = {}): Promise<Page<Invoice>> {
    return this.#get("/api/billing/invoices", options);
  }

  upcomingInvoice(options: CallOptions = {}): Promise<UpcomingInvoice> {
    return this.#get("/api/billing/invoices/upcoming", options);
  }

  paymentMethods(options: PageOptions = {}): Promise<Page<PaymentMethod>> {
    return this.#get("/api/billing/payment-methods", options);
  }

  subscription(options: CallOptions = {}): Promise<Subscription> {
    return this.#get("/api/billing/subscription", options);
  }

  /** What a change would cost. Changes nothing. */
  async preview(body: PreviewRequest, options: Pick<CallOptions, "signal"> = {}): Promise<Preview> {
    const answer = await this.#transport.call<Preview>({
      method: "POST",
      path: "/api/billing/subscription/preview",
      organization: this.id,
      body,
      signal: options.signal,
    });
    return answer.body;
  }

  subscribe(body: NewSubscription, options: CallOptions = {}): Promise<Subscription | ActionRequired> {
    return this.#change("POST", "/api/billing/subscription", body, options);
  }

  changePlan(body: PlanChange, options: CallOptions = {}): Promise<Subscription | ActionRequired> {
    return this.#change("PUT", "/api/billing/subscription", body, options);
  }

  /** Ends the subscription with its period, or now. */
  cancel(how: Cancellation & { immediately?: boolean } = {}, options: CallOptions = {}): Promise<Subscription> {
    const { immediately, ...said } = how;
    const path = `/api/billing/subscription${immediately ? "?immediately=true" : ""}`;
    return this.#change("DELETE", path, Object.keys(said).length > 0 ? said : undefined, options);
  }

  reactivate(options: CallOptions = {}): Promise<Subscription> {
    return this.#change("POST", "/api/billing/subscription/reactivate", undefined, options);
  }

  callOffPendingChange(options: CallOptions = {}): Promise<Subscription> {
    return this.#change("DELETE", "/api/billing/subscription/pending-change", undefined, options);
  }

  /** Begins a checkout: send the payer to `url`. */
  checkout(body: NewCheckout, options: CallOptions = {}): Promise<Checkout> {
    return this.#change("POST", "/api/billing/checkout", body, options);
  }

  getCheckout(id: string, options: CallOptions = {}): Promise<AnswerOf<"getCheckout">> {
    return this.#get(`/api/billing/checkout/${encodeURIComponent(id)}`, options);
  }

  /** When the payer is back. `done` is false while they, or their bank, are not. */
  async completeCheckout(id: string, options: CallOptions = {}): Promise<CompletedCheckout & { done: boolean }> {
    const path = `/api/billing/checkout/${encodeURIComponent(id)}/complete`;
    const answer = await this.#send<CompletedCheckout>("POST", path, undefined, options);
    return { ...answer.body, done: answer.status === 200 };
  }

  portal(body: NonNullable<BodyOf<"openPortal">> = {}, options: CallOptions = {}): Promise<AnswerOf<"openPortal", 201>> {
    return this.#change("POST", "/api/billing/portal", body, options);
  }

  setUpPaymentMethod(
    body: NonNullable<BodyOf<"setUpPaymentMethod">> = {},
    options: CallOptions = {},
  ): Promise<AnswerOf<"setUpPaymentMethod", 201>> {
    return this.#change("POST", "/api/billing/payment-methods/setup", body, options);
  }

  setDefaultPaymentMethod(id: string, options: CallOptions = {}): Promise<PaymentMethod> {
    return this.#change("PUT", `/api/billing/payment-methods/${encodeURIComponent(id)}/default`, undefined, options);
  }

  async removePaymentMethod(id: string, options: CallOptions = {}): Promise<void> {
    await this.#send("DELETE", `/api/billing/payment-methods/${encodeURIComponent(id)}`, undefined, options);
  }

  async #get<T>(path: string, options: PageOptions, query: Record<string, boolean | undefined> = {}): Promise<T> {
    const { signal, limit, cursor } = options;
    const call = { method: "GET" as const, path, organization: this.id, query: { limit, cursor, ...query }, signal };
    return (await this.#transport.call<T>(call)).body;
  }

  async #change<T>(method: Method, path: string, body: unknown, options: CallOptions): Promise<T> {
    return (await this.#send<T>(method, path, body, options)).body;
  }

  /** A change, once: all attempts have one key. Whoever reads the state next reads it anew. */
  async #send<T>(method: Method, path: string, body: unknown, options: CallOptions): Promise<Answer<T>> {
    const { signal, idempotencyKey = newId() } = options;
    try {
      return await this.#transport.call<T>({ method, path, organization: this.id, body, signal, idempotencyKey });
    } finally {
      this.#state().expire();
    }
  }
}
