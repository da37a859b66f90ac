// What is looked at: the run, and the choices, which live in the URL after #, so that a link shows the same again.
import { batch, computed, signal } from "@preact/signals";

/** @type {import("@preact/signals").Signal<import("./data.js").Run>} */
export const run = signal(null);
export const toast = signal("");
export const view = signal({ screen: "overview" });

export const SCREENS = ["overview", "gallery", "tree", "costs", "failures"];
const FILTERS = ["q", "tag", "seed", "status", "arm"];

function parse(hash) {
  const [screen, query = ""] = hash.replace(/^#/, "").split("?");
  return { ...Object.fromEntries(new URLSearchParams(query)), screen: SCREENS.includes(screen) ? screen : "overview" };
}

/** The address of a view, for a link. */
export function address(changes) {
  const { screen, ...rest } = { ...view.value, ...changes };
  const query = new URLSearchParams(Object.entries(rest).filter(([, v]) => v !== "" && v !== null && v !== undefined));
  return `#${screen}${query.size ? `?${query}` : ""}`;
}

const trees = computed(() => {
  const base = address({ screen: "tree", search: "" });
  return base + (base.includes("?") ? "&" : "?");
});

/** The address of the tree of a search, quick enough for every row of a list. */
export const treeOf = (id) => `${trees.value}search=${encodeURIComponent(id)}`;

/** Change some choices; a change of the screen or of the search is a step that Back undoes. */
export function choose(changes) {
  const before = view.value;
  const target = address(changes);
  const step = (changes.screen && changes.screen !== before.screen) || (changes.search && changes.search !== before.search);
  history[step ? "pushState" : "replaceState"](null, "", target);
  view.value = parse(target);
}

export function listen() {
  const follow = () => batch(() => (view.value = parse(location.hash)));
  addEventListener("hashchange", follow);
  addEventListener("popstate", follow);
  follow();
}

export function say(text) {
  toast.value = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (toast.value = ""), 2500);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // file:// in a browser that keeps the clipboard to https
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`Copied ${what}`);
}

/** Offer a file to download. */
export function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`Saved ${name}`);
}

// -- what a run's tables say, by arm and by prompt and seed ----------------------------------------------------------

/** The arms by index, and for each search its arm and its group: the searches of one prompt and seed. */
export const index = computed(() => {
  const { searches, manifest } = run.value;
  const names = manifest.arms.map((a) => a.name);
  const at = new Map(names.map((name, i) => [name, i]));
  const arm = new Int32Array(searches.n);
  const group = new Int32Array(searches.n);
  const groups = []; // of each group, the search of each arm, or -1
  const seen = new Map();
  const codes = searches.column("arm");
  const armOfCode = searches.values("arm").map((name) => {
    if (!at.has(name)) at.set(name, names.push(name) - 1);
    return at.get(name);
  });
  const groupOf = searches.column("group");
  for (let i = 0; i < searches.n; i++) {
    arm[i] = armOfCode[codes[i]] ?? 0;
    let g = seen.get(groupOf[i]);
    if (g === undefined) {
      g = groups.push(new Int32Array(names.length).fill(-1)) - 1;
      seen.set(groupOf[i], g);
    }
    group[i] = g;
    groups[g][arm[i]] = i;
  }
  return { names, at, arm, group, groups };
});

/** The id of a group, the part of its searches' ids that the arms share; a group's number may change as a run goes on. */
export function groupId(g) {
  const id = run.value.searches.text("search_id", index.value.groups[g].find((row) => row >= 0));
  return id.split("-", 2).join("-");
}

/** Names of the columns of texts that are a prompt's tags, of few enough values to choose from. */
export const tags = computed(() => {
  const { searches, manifest } = run.value;
  return (manifest.tags ?? []).filter((name) => searches.isText(name) && searches.values(name).length <= 200);
});

/** Is any filter on? */
export const filtered = computed(() => FILTERS.some((name) => view.value[name]));

/** For each search 1 if the filters let it through; `anyArm` leaves the filter of arms out. */
function passing(anyArm) {
  const { searches } = run.value;
  const { q, tag, seed, status, arm } = view.value;
  const keep = new Uint8Array(searches.n).fill(1);
  const only = (name, accept) => {
    const codes = searches.column(name);
    const ok = searches.values(name).map(accept);
    for (let i = 0; i < keep.length; i++) if (!ok[codes[i]]) keep[i] = 0;
  };
  if (q) {
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    only("prompt", (text) => words.every((w) => text.toLowerCase().includes(w)));
  }
  if (tag) {
    const [name, value] = [tag.slice(0, tag.indexOf(":")), tag.slice(tag.indexOf(":") + 1)];
    if (searches.isText(name)) only(name, (text) => text === value);
  }
  if (status) only("status", (text) => text === status);
  if (arm && !anyArm) {
    const wanted = new Set(arm.split(","));
    only("arm", (text) => wanted.has(text));
  }
  if (seed) {
    const seeds = searches.column("seed");
    for (let i = 0; i < keep.length; i++) if (String(seeds[i]) !== seed) keep[i] = 0;
  }
  return keep;
}

const rowsOf = (keep) => {
  const rows = new Int32Array(keep.reduce((n, k) => n + k, 0));
  for (let i = 0, n = 0; i < keep.length; i++) if (keep[i]) rows[n++] = i;
  return rows;
};
export const shown = computed(() => rowsOf(passing(false)));

/** Groups of which at least one search passes. */
export const shownGroups = computed(() => {
  const { group, groups } = index.value;
  const there = new Uint8Array(groups.length);
  for (const row of shown.value) there[group[row]] = 1;
  return rowsOf(there);
});

// -- choices with their defaults -------------------------------------------------------------------------------------

export const measures = computed(() => run.value.manifest.measures);
export const measure = computed(() => measures.value.find((m) => m.key === view.value.m) ?? measures.value[0] ?? null);
export const judge = computed(() => (measure.value?.judge ? measure.value : measures.value.find((m) => m.judge)) ?? null);
export const baseline = computed(() => {
  const { names, at } = index.value;
  const wanted = view.value.base ?? run.value.manifest.baseline;
  return at.has(wanted) ? wanted : (names[0] ?? "");
});
export const price = computed(() => {
  const given = Number(view.value.price ?? run.value.manifest.price ?? 0);
  return Number.isFinite(given) && given > 0 ? given : 0;
});

export const COSTS = {
  nfe: { label: "NFE", long: "evaluations of the model", column: "nfe", key: "nfe", factor: () => 1 },
  seconds: { label: "replica-s", long: "seconds of a replica", column: "replica_seconds", key: "seconds", factor: () => 1 },
  wall: { label: "wall", long: "seconds from start to end", column: "wall_seconds", key: "wall", factor: () => 1 },
  usd: { label: "$", long: "dollars", column: "replica_seconds", key: "seconds", factor: () => (price.value > 0 ? price.value / 3600 : NaN) },
};
/** A choice of the address if it is one of these, else what there is without a choice: an address may hold anything. */
export const oneOf = (options, wanted, otherwise) => (Object.hasOwn(options, wanted) ? wanted : otherwise);
export const cost = computed(() => {
  const name = oneOf(COSTS, view.value.x, "nfe");
  return { name, ...COSTS[name] };
});

/** Are dollars wanted of which nobody said how many an hour takes? */
export const unpriced = computed(() => cost.value.name === "usd" && !price.value);

/** What a search cost on the chosen axis; NaN where it is not known. */
export function costOf(row) {
  return run.value.searches.number(cost.value.column, row) * cost.value.factor();
}

/** Is a measure of the same reward for an arm as for the baseline? */
export function comparable(name, key) {
  const { arms } = run.value.manifest;
  const kind = (key ?? "").replace(/^reward_/, "").split("_", 1)[0]; // a run that only failed has no measure
  const of = (wanted) => arms.find((a) => a.name === wanted)?.rewards?.[kind];
  return of(name) === of(baseline.value);
}

const comparableArms = new Map(); // by measure; of `comparableArms.of`, the arms and their baseline
function alike(i, key) {
  const { names } = index.value;
  if (comparableArms.of !== names || comparableArms.over !== baseline.value) {
    comparableArms.clear();
    Object.assign(comparableArms, { of: names, over: baseline.value });
  }
  if (!comparableArms.has(key)) comparableArms.set(key, names.map((name) => comparable(name, key)));
  return comparableArms.get(key)[i];
}

/** The value of a measure for a search, minus that of the baseline's of the same prompt and seed; NaN for the baseline itself, and between different rewards. */
export function gainOf(row, key) {
  if (!(row >= 0)) return NaN;
  const { arm, group, groups, at } = index.value;
  if (arm[row] === at.get(baseline.value) || !alike(arm[row], key)) return NaN;
  const other = groups[group[row]][at.get(baseline.value)];
  return other === undefined || other < 0 ? NaN : run.value.searches.number(key, row) - run.value.searches.number(key, other);
}

/** The row of a search by its id, or -1. */
export const rowById = computed(() => {
  const { searches } = run.value;
  const ids = searches.column("search_id");
  const rows = new Map();
  if (ids) for (let i = 0; i < ids.length; i++) rows.set(searches.values("search_id")[ids[i]], i);
  return rows;
});
