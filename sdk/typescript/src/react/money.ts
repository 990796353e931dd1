// Amounts for people. They are computed by the service; here they are only written.

const NONE = new Set("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split(" "));
const THREE = new Set("bhd jod kwd omr tnd".split(" "));

/** The digits after the point that the service counts a currency's minor unit by. */
export function decimals(currency: string): number {
  const code = currency.toLowerCase();
  return NONE.has(code) ? 0 : THREE.has(code) ? 3 : 2;
}

/** An amount in minor units, such as `9900` of `usd`. */
export function formatAmount(amount: number, currency: string, locale?: string): string {
  const digits = decimals(currency);
  const format = new Intl.NumberFormat(locale, {
    style: "currency",
    currency: currency.toUpperCase(),
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return format.format(amount / 10 ** digits);
}

export function formatNumber(value: number, locale?: string): string {
  return new Intl.NumberFormat(locale, { maximumFractionDigits: 4 }).format(value);
}

export function formatTime(time: string, locale?: string): string {
  return new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" }).format(new Date(time));
}
