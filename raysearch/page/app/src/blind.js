// Blind comparison: names are hidden, sides are shuffled by a seed, and votes can be taken away as CSV.
import { computed, signal } from "@preact/signals";
import { baseline, download, groupId, index, run, view } from "./state.js";

// By the id of a group, which a newer page of the same run does not give to another prompt: the winner's arm or "tie",
// the arms shown from left to right, and all that the CSV says of the vote, as it was then.
export const votes = signal(new Map());
export const blind = computed(() => (/^[1-9]\d{0,8}$/.test(view.value.blind) ? Number(view.value.blind) : 0)); // the seed, or 0

export const newSeed = () => 1 + Math.floor(Math.random() * 999999);

function* numbers(seed) {
  let state = seed >>> 0;
  for (;;) {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    yield ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}

/** A number of 32 bits for a text (FNV-1a). */
const hashed = (text) => [...text].reduce((h, c) => Math.imul(h ^ c.codePointAt(0), 16777619), 0x811c9dc5);

/** The arms in the order of this row: as they are, or shuffled by the seed and the id of the group. */
export function sides(arms, group) {
  if (!blind.value) return arms;
  const draw = numbers(Math.imul(blind.value, 2654435761) ^ hashed(groupId(group)));
  const mixed = [...arms];
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = Math.floor(draw.next().value * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

export const letter = (i) => String.fromCharCode(65 + i);

export function vote(group, shown, winner) {
  const { searches } = run.value;
  const { groups, at } = index.value;
  const any = groups[group].find((row) => row >= 0);
  const said = { prompt: searches.text("prompt", any), seed: searches.text("seed", any), baseline: baseline.value, blind: blind.value };
  const search = winner === "tie" ? "" : searches.text("search_id", groups[group][at.get(winner)]);
  votes.value = new Map(votes.value).set(groupId(group), { ...said, winner, search, shown, at: new Date().toISOString() });
}

/** A cell of CSV, which no spreadsheet takes for a formula. */
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The votes as CSV, a line a vote. */
export function csv() {
  const lines = [["prompt", "seed", "winner", "winner_search", "shown", "baseline", "blind_seed", "at"]];
  for (const v of votes.value.values()) lines.push([v.prompt, v.seed, v.winner, v.search, v.shown.join("|"), v.baseline, v.blind, v.at]);
  return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

export const downloadVotes = () => download(`${run.value.manifest.run.name}-votes.csv`, csv(), "text/csv");

// Votes are kept in memory alone, so leaving the page with some asks first.
let saved = 0;
export const savedVotes = () => (saved = votes.value.size);
addEventListener("beforeunload", (event) => {
  if (votes.value.size > saved) event.preventDefault();
});
