// Quantities are sent as the digits that they are: at most 20, 4 of them after the point.

const DECIMAL = /^(\d+)(?:\.(\d+))?$/;

/** A quantity as it is sent. Throws a TypeError for what the service would refuse. */
export function exact(quantity: number | bigint | string): string {
  if (typeof quantity === "number" && !Number.isSafeInteger(Math.trunc(quantity))) {
    throw new TypeError(`quantity: ${quantity} is not a number that is kept exactly; pass a bigint or a string`);
  }
  const digits = DECIMAL.exec(String(quantity));
  if (!digits) {
    throw new TypeError(`quantity: expected a number of 0 or more, got ${JSON.stringify(String(quantity))}`);
  }
  const [, whole = "", part = ""] = digits;
  const fraction = part.replace(/0+$/, "");
  const integer = whole.replace(/^0+(?=\d)/, "");
  if (fraction.length > 4) {
    throw new TypeError(`quantity: ${quantity} has more than 4 digits after the point; round it, or pass a string`);
  }
  if (integer.length + fraction.length > 20) {
    throw new TypeError(`quantity: ${quantity} has more than 20 digits`);
  }
  return fraction ? `${integer}.${fraction}` : integer;
}
