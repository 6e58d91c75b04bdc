// Local days of a time zone, as usage is reported by them.

import { DAY_MS } from "./decisions.js";

/** Formats of local days by time zone; to make one takes longer than to use it. */
const FORMATS = new Map<string, Intl.DateTimeFormat>();

/** Return whether a time zone is known. */
export function isZone(timezone: string): boolean {
  try {
    return formatOf(timezone) !== undefined;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

/** Return the local day of a moment, as 2026-11-22. */
export function localDay(moment: number, timezone: string): string {
  return formatOf(timezone).format(moment);
}

/** Return consecutive days until `last`. */
export function daysUntil(last: string, count: number): string[] {
  const end = Date.parse(last);
  return Array.from({ length: count }, (_, place) => dayOf(end - (count - 1 - place) * DAY_MS));
}

/** Return the number of days from one to the other, both included. */
export function countOfDays(first: string, last: string): number {
  return Math.round((Date.parse(last) - Date.parse(first)) / DAY_MS) + 1;
}

function dayOf(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}

function formatOf(timeZone: string): Intl.DateTimeFormat {
  const known = FORMATS.get(timeZone);
  if (known !== undefined) return known;
  const format = new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short" }); // Sweden writes ISO days
  FORMATS.set(timeZone, format);
  return format;
}
