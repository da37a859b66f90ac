// Where the candidates of a search are drawn: a line a trajectory, the axis of the user's choice to the right.
import { scaleLinear } from "d3-scale";

const FOLD = 2000; // beyond so many candidates, pruned siblings become one stub
const TOP = 34;
const SIDE = 30;

export const AXES = { sigma: "noise level", step: "solver step", nfe: "NFE of the search so far", wall: "seconds into the search" };
export const ORDERS = { lineage: "children below their parents", reward: "the best last", time: "as they were asked" };

/**
 * The trajectories of rows `start` to `end` of a table. Each has its nodes in the order of steps, the node it came
 * from, and how; `pruned` says that nothing more was made of it.
 */
export function trajectories({ table, start, end }, winner) {
  const number = (name) => table.column(name);
  const [id, step, parent, part, kept, reward] = ["trajectory", "step", "parent_row", "part", "kept", "reward"].map(number);
  const lines = new Map();
  for (let row = start; row < end; row++) {
    const key = id ? id[row] : row;
    let line = lines.get(key);
    if (!line) {
      line = { key, nodes: [], parent: -1, part: 0, kind: "", children: 0, folded: null };
      lines.set(key, line);
    }
    line.nodes.push(row);
  }
  const of = new Map();
  for (const line of lines.values()) {
    if (step) line.nodes.sort((a, b) => step[a] - step[b] || a - b);
    const first = line.nodes[0];
    line.part = part ? Math.max(0, part[first]) : 0;
    line.kind = table.text("kind", first);
    line.parent = parent ? parent[first] : -1;
    for (const row of line.nodes) of.set(row, line);
    line.first = Math.min(...line.nodes);
  }
  for (const line of lines.values()) {
    if (line.parent >= start && line.parent < end && of.get(line.parent) !== line) of.get(line.parent).children++;
    else line.parent = -1;
    line.last = NaN;
    for (const row of line.nodes) if (reward && Number.isFinite(reward[row])) line.last = reward[row];
  }
  const won = of.get(winner);
  for (const line of lines.values()) line.pruned = line !== won && !line.children && !line.nodes.some((row) => kept && kept[row] === 1);
  return { lines: [...lines.values()], of };
}

/** Which rows lead to the winner. */
export function pathTo(winner, { of }) {
  const path = new Set();
  for (let row = winner; row >= 0 && of.has(row) && !path.has(row);) {
    const line = of.get(row);
    for (const r of line.nodes) if (line.nodes.indexOf(r) <= line.nodes.indexOf(row)) path.add(r);
    row = line.parent;
  }
  return path;
}

/** Lines with pruned siblings folded into stubs, if there are more than FOLD candidates; `open` are unfolded. */
export function folded(lines, total, open) {
  if (total <= FOLD) return lines;
  const groups = new Map();
  for (const line of lines) {
    if (!line.pruned) continue;
    const key = `${line.parent}/${line.part}/${line.kind}`;
    groups.set(key, [...(groups.get(key) ?? []), line]);
  }
  const hidden = new Set();
  const stubs = [];
  for (const [key, group] of groups) {
    if (group.length < 3 || open.has(key)) continue;
    group.forEach((line) => hidden.add(line));
    const best = group.reduce((a, b) => (b.last > a.last || Number.isNaN(a.last) ? b : a));
    stubs.push({ ...best, key: `fold ${key}`, folded: { key, n: group.length }, nodes: [best.nodes.at(-1)] });
  }
  return [...lines.filter((line) => !hidden.has(line)), ...stubs];
}

/** The lines from top to bottom. */
function arranged(lines, of, order) {
  const early = (a, b) => a.part - b.part || a.first - b.first;
  if (order === "time") return [...lines].sort(early);
  if (order === "reward") return [...lines].sort((a, b) => (Number.isNaN(b.last) ? -1 : Number.isNaN(a.last) ? 1 : b.last - a.last) || early(a, b));
  const below = new Map();
  for (const line of lines) {
    const parent = line.parent < 0 ? null : of.get(line.parent);
    below.set(parent, [...(below.get(parent) ?? []), line]);
  }
  const placed = [];
  const seen = new Set();
  const stack = (below.get(null) ?? []).sort(early).reverse();
  while (stack.length) {
    const line = stack.pop();
    if (seen.has(line)) continue;
    seen.add(line);
    placed.push(line);
    stack.push(...(below.get(line) ?? []).sort(early).reverse());
  }
  return [...placed, ...lines.filter((line) => !seen.has(line)).sort(early)];
}

/** Where on the axis sigma or step a re-noised trajectory begins: at the step that its origin names. */
function level({ table, start, end }, line, axis) {
  const { to_step: to } = JSON.parse(table.text("origin", line.nodes[0]) || "{}");
  if (to === undefined || axis === "step") return to ?? NaN;
  const [step, sigma] = [table.column("step"), table.column("sigma")];
  let [below, above] = [{ step: 0, sigma: 1 }, null]; // the nearest steps whose noise levels some candidate tells
  for (let row = start; row < end; row++) {
    if (step[row] <= to && step[row] >= below.step) below = { step: step[row], sigma: sigma[row] };
    if (step[row] >= to && (!above || step[row] < above.step)) above = { step: step[row], sigma: sigma[row] };
  }
  if (!above || above.step === below.step) return -below.sigma;
  return -(below.sigma + ((above.sigma - below.sigma) * (to - below.step)) / (above.step - below.step));
}

/**
 * Nodes with x and y in pixels, and edges between them. `shape` is {axis, order, part, width, height}: with the axis
 * sigma or step, each part of a long video has a panel of its own, one after the other.
 */
export function place(found, lines, { axis, order, part, width, height }) {
  const { table, of } = found;
  const [step, sigma, nfe, asked, steps] = ["step", "sigma", "nfe_after", "asked_s", "num_steps"].map((name) => table.column(name));
  const chosen = part === null ? lines : lines.filter((line) => line.part === part);
  const inPanels = axis === "sigma" || axis === "step";
  const parts = inPanels ? [...new Set(chosen.map((line) => line.part))].sort((a, b) => a - b) : [0];
  const raw = (row) => {
    if (axis === "sigma") return -(sigma ? sigma[row] : 0);
    if (axis === "step") return step ? step[row] : 0;
    const values = axis === "nfe" ? nfe : asked;
    return values && values[row] >= 0 ? values[row] : NaN;
  };
  let [low, high] = [Infinity, -Infinity];
  for (const line of chosen) {
    for (const row of line.nodes) {
      const x = raw(row);
      if (x < low) low = x;
      if (x > high) high = x;
    }
  }
  if (axis === "sigma") [low, high] = [Math.min(low, -1), Math.max(high, 0)];
  if (axis === "step") [low, high] = [0, Math.max(high, steps?.[found.start] ?? 0, 1)];
  if (axis === "nfe" || axis === "wall") low = 0;
  if (!(high > low)) [low, high] = [(Number.isFinite(low) ? low : 0) - 1, (Number.isFinite(high) ? high : 0) + 1];
  const gap = 26;
  const panel = (Math.max(width, parts.length * 220) - 2 * SIDE - gap * (parts.length - 1)) / parts.length;
  const x0 = (p) => SIDE + (inPanels ? parts.indexOf(p) : 0) * (panel + gap);
  const scale = scaleLinear([low, high], [0, panel]);
  const rows = arranged(chosen, of, order);
  const lane = Math.max(7, Math.min(30, (height - TOP - 30) / Math.max(1, rows.length)));
  const nodes = new Map();
  rows.forEach((line, i) => {
    let before = NaN;
    for (let k = line.nodes.length - 1; k >= 0; k--) {
      const row = line.nodes[k];
      let x = raw(row);
      if (Number.isNaN(x)) x = before; // never asked: beside what came of it
      before = x;
      nodes.set(row, { row, line, lane: i, k, x: x0(line.part) + scale(Number.isNaN(x) ? low : x), y: TOP + (i + 0.5) * lane });
    }
  });
  const edges = [];
  for (const line of rows) {
    const own = line.nodes.map((row) => nodes.get(row));
    const from = line.parent < 0 ? null : nodes.get(line.parent);
    const back = from && inPanels && line.kind === "renoise" ? level(found, line, axis) : NaN;
    if (Number.isFinite(back)) { // noise is added to the parent's latent, which takes it back to an earlier level
      const again = { x: x0(line.part) + scale(back), y: own[0].y };
      edges.push({ from, to: { ...again, row: own[0].row }, kind: "renoise" }, { from: again, to: own[0], kind: "line" });
    } else if (from) edges.push({ from, to: own[0], kind: line.kind });
    else if (inPanels) edges.push({ from: { x: x0(line.part), y: own[0].y }, to: own[0], kind: line.parent < 0 ? "start" : line.kind });
    for (let k = 1; k < own.length; k++) edges.push({ from: own[k - 1], to: own[k], kind: "line" });
  }
  const ticks = parts.flatMap((p) => scale.ticks(parts.length > 3 ? 3 : 6).map((t) => ({ x: x0(p) + scale(t), text: axis === "sigma" ? String(Math.abs(t)) : String(t) })));
  return { nodes, edges, rows, lane, parts: parts.map((p) => ({ part: p, x: x0(p), width: panel })), ticks, height: TOP + rows.length * lane + 30, top: TOP };
}
