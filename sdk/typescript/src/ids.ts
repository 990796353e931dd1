// Ids that sort by the time at which they were made: UUIDs of version 7.

let last = 0;
let counter = 0;

/** Later ids of a process are greater as text, within a millisecond too. */
export function newId(now: number = Date.now()): string {
  if (now > last) {
    last = now;
    counter = crypto.getRandomValues(new Uint16Array(1))[0]! & 0x7ff;
  } else if (++counter > 0xfff) {
    // More than a millisecond has room for, or the clock was set back.
    last += 1;
    counter = 0;
  }
  const random = crypto.getRandomValues(new Uint8Array(8));
  random[0] = (random[0]! & 0x3f) | 0x80;
  const tail = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const time = last.toString(16).padStart(12, "0");
  const count = counter.toString(16).padStart(3, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${count}-${tail.slice(0, 4)}-${tail.slice(4)}`;
}
