// Components without styles: roles, labels and texts, and `data-billing` on each part to style it by.

import { useId, useState } from "react";
import type { FormEvent, ReactNode } from "react";

import { BillingError } from "../errors.js";
import type { GracePeriod, Plan, Preview, Usage } from "../types.js";
import { useBilling, usePreview } from "./hooks.js";
import { formatAmount, formatNumber, formatTime } from "./money.js";

export interface UsageMeterProps {
  metric: string;
  /** The metric's name for people. */
  label?: string;
  locale?: string | undefined;
  /** The text beside the bar. */
  text?: (usage: Usage) => ReactNode;
}

/** What is used of a quota. Nothing as long as that is not known. */
export function UsageMeter({ metric, label = metric, locale, text }: UsageMeterProps): ReactNode {
  const { usage } = useBilling();
  const id = useId();
  const found = usage.find((one) => one.metric === metric);
  if (!found) return null;
  const { quota } = found;
  const used = formatNumber(found.usage, locale);
  const limited = quota !== null;
  const said = limited ? `${used} of ${formatNumber(quota, locale)} used` : `${used} used, without a limit`;
  const level = !limited || found.percentage < 80 ? "ok" : found.usage > quota ? "over" : "warning";
  return (
    <div data-billing="usage-meter" data-metric={metric} data-level={level}>
      <span id={id} data-billing="label">
        {label}
      </span>
      {limited && (
        <meter
          data-billing="bar"
          aria-labelledby={id}
          aria-valuetext={said}
          min={0}
          max={Math.max(quota, 1)}
          high={Math.max(quota, 1) * 0.8}
          optimum={0}
          value={Math.min(found.usage, Math.max(quota, 1))}
        >
          {said}
        </meter>
      )}
      <span data-billing="text">{text ? text(found) : said}</span>
    </div>
  );
}

export interface GraceBannerProps {
  /** The metrics' names for people. */
  labels?: Record<string, string>;
  locale?: string | undefined;
  /** The whole text of one. */
  children?: (grace: GracePeriod) => ReactNode;
}

/** Says which quotas are used up, and until when uses are still let through. Nothing if there are none. */
export function GraceBanner({ labels = {}, locale, children }: GraceBannerProps): ReactNode {
  const { gracePeriods } = useBilling();
  // The region is there before it says something: else nobody is told.
  return (
    <div role="status" data-billing="grace-banner">
      {gracePeriods.map((grace) => (
        <p key={grace.metric} data-billing="grace" data-metric={grace.metric}>
          {children ? (
            children(grace)
          ) : (
            <>
              The quota of {formatNumber(grace.quota, locale)} {labels[grace.metric] ?? grace.metric} is used up. Until{" "}
              <time dateTime={grace.expiresAt}>{formatTime(grace.expiresAt, locale)}</time> more is allowed; then it is not.
            </>
          )}
        </p>
      ))}
    </div>
  );
}

/** What a customer has chosen, with the price that they saw. */
export interface PlanChoice {
  planTier: string;
  interval: Plan["prices"][number]["interval"] | undefined;
  currency: string;
  preview: Preview;
  /** For `changePlan` or `subscribeTo`: charges what was shown, or is refused. */
  previewToken: string;
}

export interface PlanPickerProps {
  /** Makes the change. What it throws is shown. */
  onChoose: (choice: PlanChoice) => void | Promise<unknown>;
  legend?: string;
  confirmLabel?: string;
  locale?: string | undefined;
  /** What is said of a plan beside its name and price. */
  describe?: (plan: Plan) => ReactNode;
  /** Plans that are shown; all, if it is left out. */
  tiers?: readonly string[];
}

interface Offer {
  plan: Plan;
  price: { priceAmount: number; currency: string; interval: PlanChoice["interval"]; seatAmount?: number | null };
  value: string;
  current: boolean;
}

/** The plans with their prices, what the chosen one would cost, and a button that says so. */
export function PlanPicker(props: PlanPickerProps): ReactNode {
  const { onChoose, legend = "Plan", confirmLabel = "Change plan", locale, describe } = props;
  const offers = useOffers(props.tiers);
  const name = useId();
  const [chosen, choose] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const current = offers.find((offer) => offer.current);
  const offer = offers.find((one) => one.value === chosen);
  const wanted = offer && !offer.current ? offer : null;
  const request = wanted && { planTier: wanted.plan.tier, ...termsOf(wanted) };
  const { preview, loading, error, expired, refresh } = usePreview(request);
  const confirm = async (event: FormEvent) => {
    event.preventDefault();
    if (!wanted || !preview || busy) return;
    if (expired) return refresh();
    setBusy(true);
    setProblem(null);
    try {
      const { interval, currency } = wanted.price;
      const { previewToken } = preview;
      await onChoose({ planTier: wanted.plan.tier, interval, currency, preview, previewToken });
      choose(null);
    } catch (caught) {
      setProblem(caught instanceof BillingError ? caught.detail : String(caught));
      // It costs something else by now: show what.
      if (caught instanceof BillingError && caught.code.startsWith("preview_")) refresh();
    } finally {
      setBusy(false);
    }
  };
  return (
    <form data-billing="plan-picker" onSubmit={confirm} aria-busy={busy || loading}>
      <fieldset disabled={busy}>
        <legend>{legend}</legend>
        {offers.map((one) => (
          <label key={one.value} data-billing="plan" data-tier={one.plan.tier} data-current={one.current}>
            <input
              type="radio"
              name={name}
              value={one.value}
              checked={one.value === (chosen ?? current?.value)}
              onChange={() => {
                choose(one.value);
                setProblem(null);
              }}
            />
            <span data-billing="name">{one.plan.name}</span> <span data-billing="price">{priceOf(one, locale)}</span>
            {one.current && <span data-billing="current"> (current)</span>}
            {describe && <span data-billing="description">{describe(one.plan)}</span>}
          </label>
        ))}
      </fieldset>
      <div data-billing="preview" aria-live="polite">
        {loading && <p>Computing the price…</p>}
        {preview && !expired && <PreviewText preview={preview} locale={locale} />}
        {expired && <p>The price may have changed.</p>}
      </div>
      {(problem ?? error) && (
        <p role="alert" data-billing="problem">
          {problem ?? error?.detail}
        </p>
      )}
      <button type="submit" data-billing="confirm" disabled={!preview || busy}>
        {expired ? "Show the price again" : confirmLabel}
      </button>
    </form>
  );
}

function PreviewText({ preview, locale }: { preview: Preview; locale: string | undefined }): ReactNode {
  const { currency } = preview;
  return (
    <dl>
      <dt>Due now</dt>
      <dd data-billing="due-now">{formatAmount(preview.dueNowAmountMinor, currency, locale)}</dd>
      <dt>
        Next invoice, <time dateTime={preview.nextInvoiceDate}>{formatTime(preview.nextInvoiceDate, locale)}</time>
      </dt>
      <dd data-billing="next-invoice">{formatAmount(preview.nextInvoiceAmountMinor, currency, locale)}</dd>
    </dl>
  );
}

/** Free plans have no terms to choose. */
function termsOf(offer: Offer): { interval?: NonNullable<PlanChoice["interval"]>; currency?: string } {
  const { interval, currency, priceAmount } = offer.price;
  return priceAmount > 0 && interval ? { interval, currency } : {};
}

function priceOf(offer: Offer, locale: string | undefined): string {
  const { priceAmount, currency, interval } = offer.price;
  if (priceAmount === 0) return "free";
  const amount = formatAmount(priceAmount, currency, locale);
  const eachSeat = offer.plan.seats?.mode === "licensed" && offer.price.seatAmount == null;
  return `${amount} / ${interval}${eachSeat ? " and seat" : ""}`;
}

/** Each plan by each interval, in the customer's currency. */
function useOffers(tiers: readonly string[] | undefined): Offer[] {
  const { plans, state } = useBilling();
  const paid = state?.subscription;
  return plans
    .filter((plan) => !tiers || tiers.includes(plan.tier))
    .flatMap((plan) => {
      const currency = paid?.currency ?? plan.currency;
      const sold = plan.prices.filter((price) => price.currency === currency);
      const free = { priceAmount: plan.priceAmount, currency: plan.currency, interval: plan.interval };
      return (sold.length > 0 ? sold : plan.priceAmount === 0 ? [free] : []).map((price) => {
        const same = paid?.interval == null || price.priceAmount === 0 || paid.interval === price.interval;
        const current = state?.plan.tier === plan.tier && same;
        return { plan, price, value: `${plan.tier} ${price.interval}`, current };
      });
    });
}
