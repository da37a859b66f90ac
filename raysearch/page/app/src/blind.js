// Blind comparison: names are hidden, sides are shuffled by a seed, and votes can be taken away as CSV.
import { computed, signal } from "@preact/signals";
import { baseline, download, index, run, view } from "./state.js";

export const votes = signal(new Map()); // group -> {winner: arm or "tie", shown: arms from left to right, at}
export const blind = computed(() => Number(view.value.blind) || 0); // the seed, or 0

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

/** The arms in the order of this row: as they are, or shuffled by the seed and the group. */
export function sides(arms, group) {
  if (!blind.value) return arms;
  const draw = numbers(Math.imul(blind.value, 2654435761) ^ Math.imul(group + 1, 40503));
  const mixed = [...arms];
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = Math.floor(draw.next().value * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

export const letter = (i) => String.fromCharCode(65 + i);

export function vote(group, shown, winner) {
  votes.value = new Map(votes.value).set(group, { winner, shown, at: new Date().toISOString() });
}

const cell = (text) => (/[",\n\r]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));

/** The votes as CSV, a line a vote. */
export function csv() {
  const { searches } = run.value;
  const { groups, at } = index.value;
  const lines = [["prompt", "seed", "winner", "winner_search", "shown", "baseline", "blind_seed", "at"]];
  for (const [group, { winner, shown, at: when }] of votes.value) {
    const any = groups[group].find((row) => row >= 0);
    const search = winner === "tie" ? "" : searches.text("search_id", groups[group][at.get(winner)]);
    lines.push([searches.text("prompt", any), searches.text("seed", any), winner, search, shown.join("|"), baseline.value, blind.value, when]);
  }
  return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

export const downloadVotes = () => download(`${run.value.manifest.run.name}-votes.csv`, csv(), "text/csv");

// Votes are kept in memory alone, so leaving the page with some asks first.
let saved = 0;
export const savedVotes = () => (saved = votes.value.size);
addEventListener("beforeunload", (event) => {
  if (votes.value.size > saved) event.preventDefault();
});
