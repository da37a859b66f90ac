// In which order the gallery shows prompts and seeds, and what it says of each video.
import { computed } from "@preact/signals";
import { blind } from "./blind.js";
import { baseline, comparable, gainOf, index, judge, measure, oneOf, run, shownGroups, view } from "./state.js";

export const SORTS = {
  prompt: ["prompt", "in the order of the prompts"],
  gain: ["gain", "the highest gain of the judged reward over the baseline first"],
  apart: ["apart", "ranks by search reward and by judge furthest apart first"],
  spread: ["spread", "judged rewards of the arms furthest apart first"],
  failures: ["failures", "the most failed searches first"],
};

/** The column by which videos are judged: a held-out reward, else the chosen measure. */
export const judged = computed(() => (judge.value ?? measure.value)?.key ?? "reward_search");

/** The arms that are columns: those chosen, else the baseline and the filter's or the first ones. */
export const columns = computed(() => {
  const { names, at } = index.value;
  const wanted = view.value.cols?.split(",").filter((n) => at.has(n));
  if (wanted?.length) return wanted;
  const filter = view.value.arm?.split(",").filter((n) => at.has(n));
  return [...new Set([baseline.value, ...(filter ?? names)])].slice(0, 6);
});

/** For each search, its rank within its arm by search reward minus that by the judge, from -1 to 1. */
const apart = computed(() => {
  const { arm, names } = index.value;
  const { searches } = run.value;
  const found = new Float32Array(searches.n).fill(NaN);
  const of = (key, rows) => new Map(Float64Array.from(rows).sort((a, b) => searches.number(key, a) - searches.number(key, b)).reduce((list, row, i) => (list.push([row, i]), list), []));
  const byArm = names.map(() => []);
  for (let i = 0; i < searches.n; i++) {
    if (Number.isFinite(searches.number("reward_search", i)) && Number.isFinite(searches.number(judged.value, i))) byArm[arm[i]].push(i);
  }
  for (const rows of byArm) {
    const [own, other] = [of("reward_search", rows), of(judged.value, rows)];
    for (const row of rows) found[row] = rows.length > 1 ? (own.get(row) - other.get(row)) / (rows.length - 1) : 0;
  }
  return found;
});

/** Did the search's own reward rise over the baseline's while the judge's fell? */
export function hacked(row) {
  return judge.value !== null && judged.value !== "reward_search" && gainOf(row, "reward_search") > 0 && gainOf(row, judged.value) < 0;
}

/** Groups in the chosen order; in that of the prompts where names are hidden, as another one tells who is better. */
export const ordered = computed(() => {
  const by = blind.value ? "prompt" : oneOf(SORTS, view.value.sort, "gain");
  if (by === "prompt") return shownGroups.value;
  const { arm, groups, names, at } = index.value;
  const { searches } = run.value;
  const cols = columns.value.map((name) => at.get(name));
  const score = {
    gain: (rows) => max(rows.map((r) => gainOf(r, judged.value))),
    apart: (rows) => max(rows.map((r) => Math.abs(apart.value[r]))),
    spread: (rows) => {
      const values = rows.filter((r) => comparable(names[arm[r]], judged.value)).map((r) => searches.number(judged.value, r)).filter(Number.isFinite);
      return values.length > 1 ? Math.max(...values) - Math.min(...values) : NaN;
    },
    failures: (rows) => rows.filter((r) => searches.text("status", r) === "failed").length,
  }[by];
  const scores = new Float64Array(groups.length);
  for (const g of shownGroups.value) {
    const s = score(cols.map((c) => groups[g][c]).filter((r) => r >= 0));
    scores[g] = Number.isFinite(s) ? s : -Infinity;
  }
  return Int32Array.from(shownGroups.value).sort((a, b) => scores[b] - scores[a] || a - b);
});

const max = (values) => values.reduce((best, v) => (v > best || Number.isNaN(best) ? v : best), NaN);
