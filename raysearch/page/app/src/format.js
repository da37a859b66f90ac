// Numbers and colours as people read them.

const DASH = "\u2013";
export const NEEDS_PRICE = "Give a price, in $ per replica-hour, to see money.";

/** A number with about three digits that matter; a dash where there is none. */
export function number(x, digits = 2) {
  if (x === null || x === undefined || !Number.isFinite(x)) return DASH;
  const size = Math.abs(x);
  if (size >= 10000) return compact(x);
  if (size >= 100) return x.toFixed(0);
  if (size >= 10) return x.toFixed(1);
  if (size > 0 && size < 0.01) return x.toPrecision(2);
  return x.toFixed(digits);
}

export const signed = (x) => (Number.isFinite(x) && x !== null ? (x < 0 ? "\u2212" : "+") + number(Math.abs(x)) : DASH);
export const percent = (x) => (x === null || !Number.isFinite(x) ? DASH : `${Math.round(100 * x)}%`);
export const count = (x) => (x === null || x === undefined || !Number.isFinite(x) ? DASH : String(Math.round(x)).replace(/\B(?=(\d{3})+$)/g, ","));

export function compact(x) {
  if (x === null || !Number.isFinite(x)) return DASH;
  const size = Math.abs(x);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${+(x / (name === "k" ? 1e3 : unit)).toPrecision(3)}${name}`;
  }
  return count(x);
}

export function duration(s) {
  if (s === null || !Number.isFinite(s)) return DASH;
  if (s < 90) return `${number(s, 1)} s`;
  const seconds = Math.round(s);
  if (seconds < 5400) return `${Math.floor(seconds / 60)}m${String(seconds % 60).padStart(2, "0")}`;
  const minutes = Math.round(s / 60);
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}`;
}

export const money = (x) => (Number.isFinite(x) ? `$${x >= 100 ? count(x) : x.toFixed(x >= 1 ? 2 : 4)}` : DASH);
export const costText = (x, name) => (name === "usd" ? money(x) : name === "nfe" ? compact(x) : number(x));

export function bytes(x) {
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (x >= unit) return `${number(x / unit)} ${name}`;
  return Number.isFinite(x) ? `${x} B` : DASH;
}

const PALETTE = ["#5b6ee1", "#e0823d", "#2a9d78", "#c2559a", "#a08a25", "#3c9bd0", "#d4564f", "#8763cc", "#6a9a3b", "#9a7563"];

/** The colour of arm or series i: ten of a palette, then hues as far apart as they come. */
export function colour(i) {
  return i < PALETTE.length ? PALETTE[i] : `hsl(${Math.round((i * 137.508) % 360)} 55% 52%)`;
}

const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

/** Viridis at t from 0 to 1. */
export function viridis(t) {
  const x = Math.min(1, Math.max(0, t)) * (VIRIDIS.length - 1);
  const i = Math.min(VIRIDIS.length - 2, Math.floor(x));
  const mix = VIRIDIS[i].map((a, c) => Math.round(a + (VIRIDIS[i + 1][c] - a) * (x - i)));
  return `rgb(${mix.join(",")})`;
}
