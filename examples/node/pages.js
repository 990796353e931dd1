// What people see: plain HTML, and nothing about billing that the other files do not say.

const escaped = (text) =>
  String(text).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);

/** Fills a template, with every value escaped; arrays are parts that are HTML already. */
export function html(parts, ...values) {
  const texts = values.map((value) => (Array.isArray(value) ? value.join('') : escaped(value ?? '')));
  return parts.reduce((page, part, n) => page + texts[n - 1] + part);
}

const page = (title, body) => html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${title} – Digest</title>
<style>body{font:16px/1.5 system-ui;max-width:40rem;margin:2rem auto;padding:0 1rem}form{margin:.5rem 0}</style>
</head><body><main><h1>${title}</h1>${[body]}</main></body></html>`;

export const signUp = (problem) =>
  page(
    'Summaries of any text',
    html`${problem ? [alert(problem)] : []}<form method="post" action="/sign-up">
<p><label>Company <input name="company" required maxlength="200"></label></p>
<p><label>E-mail <input name="email" type="email" required></label></p>
<button>Sign up</button></form>`,
  );

const alert = (text) => html`<p role="alert">${text}</p>`;

const button = (action, label, fields = {}) =>
  html`<form method="post" action="${action}">${Object.entries(fields).map(
    ([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`,
  )}<button>${label}</button></form>`;

const money = (amount, currency) =>
  new Intl.NumberFormat('en', { style: 'currency', currency }).format(
    amount / 10 ** new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits,
  );

/** The customer's page: the plan, what is wrong with its payment, and what can be done. */
export function account({ customer, state, plans, cards, openInvoice, news, summary, problem }) {
  const { plan, subscription, payment, pendingChange } = state;
  const paid = subscription !== null && plan.tier !== 'free';
  const name = plans.find((one) => one.tier === plan.tier)?.name ?? plan.tier;
  const form = (action, label) => html`<form method="post" action="${action}">
<p><label>Plan <select name="plan">${plans
    .filter((one) => one.tier !== 'free')
    .map((one) => html`<option value="${one.tier}"${[one.tier === plan.tier ? ' selected' : '']}>${one.name}</option>`)}</select></label>
<label>Seats <input name="seats" type="number" min="1" value="${plan.seats ?? 1}"></label>
<button>${label}</button></p></form>`;
  return page(
    customer.company,
    html`${problem ? [alert(problem)] : []}${payment.problem ? [alert(`Your last payment did not succeed: ${payment.problem}.`)] : []}
<p>Plan: <strong id="plan">${name}</strong>, seats: <strong id="seats">${plan.seats ?? 1}</strong>,
payment: <strong id="payment">${payment.status}</strong></p>
${pendingChange ? [html`<p id="pending">Waiting for your payment: ${pendingChange.planTier}</p>`] : []}
${subscription?.cancelAtPeriodEnd ? [html`<p id="ends">Your plan ends on ${subscription.currentPeriodEnd}.</p>`] : []}
${openInvoice ? [html`<p><a href="${openInvoice.hostedInvoiceUrl}">Pay the open invoice</a></p>`] : []}
<h2>Summarize</h2><form method="post" action="/summaries">
<p><label>Text <textarea name="text" required></textarea></label></p><button>Summarize</button></form>
${summary ? [html`<blockquote id="summary">${summary}</blockquote>`] : []}
<h2>Team</h2><p>Teammates: <strong id="teammates">${customer.teammates}</strong></p>
${[button('/teammates', 'Add a teammate')]}
<h2>Plan</h2>${[paid ? form('/change', 'See the price') : form('/subscribe', 'Subscribe')]}
${!paid ? [] : [subscription.cancelAtPeriodEnd ? button('/stay', 'Stay after all') : button('/cancel', 'Cancel')]}
<h2>Cards</h2><ul>${cards.map(
      (card) => html`<li>${card.brand} ending in ${card.last4}${[
        card.isDefault ? ' (charged)' : button('/cards/default', `Charge ${card.last4}`, { card: card.id }),
      ]}</li>`,
    )}</ul>${[button('/cards', 'Add a card'), button('/portal', 'All invoices')]}
<h2>News</h2><ul id="news">${news.map((one) => html`<li>${one}</li>`)}</ul>`,
  );
}

/** The price of a change, before anything is charged. */
export const preview = ({ shown, key }) =>
  page(
    'Your new plan',
    html`<p>Due now: <strong id="due">${money(shown.dueNowAmountMinor, shown.currency)}</strong>,
from ${shown.nextInvoiceDate} on: ${money(shown.nextInvoiceAmountMinor, shown.currency)}</p>
<ul>${shown.lines.map((line) => html`<li>${line.description}: ${money(line.amount, shown.currency)}</li>`)}</ul>
${[button('/change/confirm', 'Change my plan', { plan: shown.newPlan, token: shown.previewToken, key })]}
<p><a href="/account">Back</a></p>`,
  );

/** The bank asks its cardholder: the plan stays as it is until they have paid. */
export const confirmPayment = ({ next, plan, token, key }) =>
  page(
    'Confirm your payment',
    html`<p>Your bank asks you to confirm this payment.</p>
<p><a href="${next.hostedInvoiceUrl}" target="_blank">Go to your bank</a></p>
${[button('/change/confirm', 'I have confirmed', { plan, token, key })]}`,
  );
