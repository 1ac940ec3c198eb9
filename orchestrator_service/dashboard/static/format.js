// How times, durations, money and counts read.

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const HOUR = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });
const COUNT = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

const moment = (value) => (value instanceof Date ? value : new Date(value));

export const count = (value) => (value === null || value === undefined ? "–" : COUNT.format(value));
export const short = (value) => (value === null || value === undefined ? "–" : SHORT.format(value));
export const clock = (value) => CLOCK.format(moment(value));
export const full = (value) => (value ? FULL.format(moment(value)) : "–");
export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(value < 0.1 && value > 0 ? 1 : 0)} %`);

/** Return a moment as short as it can be understood: the time for today, else the day as well. */
export function when(value) {
  if (!value) return "–";
  const at = moment(value);
  return at.toDateString() === new Date().toDateString() ? CLOCK.format(at) : `${DAY.format(at)}, ${HOUR.format(at)}`;
}

/** Return a moment for an axis that is so many seconds long. */
export function tick(value, spanSeconds) {
  const at = moment(value);
  return spanSeconds > 2 * 86400 ? DAY.format(at) : HOUR.format(at);
}

/** Return seconds as people say them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** Return seconds as short as an axis has room for. */
export function axisDuration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const [size, word] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : [3600, "h"];
  return `${Number((seconds / size).toFixed(1))} ${word}`;
}

/** Return US dollars; those of a subscription, which nobody is billed, say so. */
export function money(value, notional = false) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = value === 0 || size >= 0.0995 ? 2 : size < 0.01 ? 4 : 3;
  return `${notional ? "≈ " : ""}$${value.toFixed(digits)}`;
}

/** Return how long ago something was. */
export function ago(seconds) {
  return seconds === null || seconds === undefined ? "never" : seconds < 1 ? "just now" : `${duration(Math.floor(seconds))} ago`;
}

export const secondsBetween = (from, to) => (from && to ? (moment(to) - moment(from)) / 1000 : null);

const PRIORITIES = { 25: "low", 50: "normal", 75: "high", 100: "urgent" };
export const priority = (value) => PRIORITIES[value] ?? String(value);
