// Amounts for people, and times as the worker writes them.

const SIZES = [
  [1_000_000_000, "B"],
  [1_000_000, "M"],
  [1_000, "K"],
] as const;

/** Return an amount as the worker writes it: 300, 1.5K, 2.0M, 7.1B; rounded down, or up where it is required. */
export function formatTokens(amount: number, { up = false }: { up?: boolean } = {}): string {
  if (amount < 0) return `-${formatTokens(-amount, { up: !up })}`;
  for (const [size, suffix] of SIZES) {
    if (amount < size && !(up && amount > size - Math.floor(size / 10_000))) continue; // 999,901 is 1.0M, not 1000.0K
    const tenths = up ? Math.ceil(amount / (size / 10)) : Math.floor(amount / (size / 10));
    return `${Math.floor(tenths / 10)}.${tenths % 10}${suffix}`;
  }
  return String(amount);
}

/** Return a time as RFC 3339, without a fraction where there is none. */
export function iso(time: number): string {
  return new Date(time).toISOString().replace(".000Z", "Z");
}
