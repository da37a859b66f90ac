// The tree of one search: what it made, what it kept, and how it came to the winner.
import { useEffect, useMemo, useState } from "preact/hooks";
import { Best } from "./best.jsx";
import { Candidate } from "./candidate.jsx";
import { Choice, Empty, Select, Swatch } from "./controls.jsx";
import { costText, count, number } from "./format.js";
import { useKeys } from "./keys.jsx";
import { AXES, ORDERS, pathTo, trajectories } from "./layout.js";
import { address, choose, index, judge, rowById, run, shown, view } from "./state.js";
import { Drawing } from "./tree_canvas.jsx";

const DOT = " \u00b7 ";

export function Tree() {
  const { searches } = run.value;
  const row = rowById.value.get(view.value.search) ?? first();
  const [found, setFound] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    let there = true;
    setError("");
    run.value.candidatesOf(row).then(
      (rows) => there && setFound(rows.end > rows.start ? { ...prepared(rows, row), row } : { ...rows, row }),
      (e) => there && (setFound(null), setError(e.message)),
    );
    return () => (there = false);
  }, [row, run.value]);
  useKeys("Search", [
    ["[", "The search before", () => step(row, -1)],
    ["]", "The next search", () => step(row, 1)],
    ["{", "The same prompt and seed, the arm before", () => sibling(row, -1)],
    ["}", "The same prompt and seed, the next arm", () => sibling(row, 1)],
    ["t", "Tree, or best so far", () => choose({ tab: view.value.tab === "best" ? "" : "best" })],
  ]);
  if (row < 0) return <Empty>{searches.n ? "No search passes the filters." : "No search has ended yet."}</Empty>;
  const ready = found && found.row === row;
  return (
    <>
      <Head row={row} />
      {error ? <Empty>{error}.</Empty>
        : !ready ? <Empty>Reading the candidates...</Empty>
        : found.end === found.start ? <Empty>{whyNone(row)}</Empty>
        : view.value.tab === "best" ? <Best row={row} />
        : <Lineage key={row} found={found} row={row} />}
    </>
  );
}

/** The first search shown that has a tree to look at, or -1. */
function first() {
  const { searches } = run.value;
  const rows = shown.value;
  return rows.find((row) => searches.number("candidates", row) > 1) ?? rows[0] ?? -1;
}

function prepared(rows, row) {
  const winner = run.value.searches.column("winner_row") ? run.value.searches.number("winner_row", row) : NaN;
  const at = Number.isFinite(winner) ? winner : -1;
  const found = { ...rows, ...trajectories(rows, at), winner: at };
  return { ...found, path: pathTo(at, found) };
}

const whyNone = (row) => run.value.searches.text("status", row) === "failed"
  ? `This search failed before a candidate was scored: ${run.value.searches.text("reason", row)}` : "This search scored no candidate: its policy asked for no reward, so there is no tree.";

function step(row, by) {
  const rows = shown.value;
  const at = rows.indexOf(row);
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  if (next !== undefined) choose({ search: run.value.searches.text("search_id", next) });
}

function sibling(row, by) {
  const { groups, group } = index.value;
  const there = groups[group[row]].filter((r) => r >= 0);
  const next = there[(there.indexOf(row) + by + there.length) % there.length];
  choose({ search: run.value.searches.text("search_id", next) });
}

function Head({ row }) {
  const { searches } = run.value;
  const { groups, group, names } = index.value;
  const others = [...groups[group[row]]].map((r, arm) => ({ r, arm })).filter(({ r }) => r >= 0);
  const status = searches.text("status", row);
  return (
    <div class="search-head">
      <div class="nearby">
        <button type="button" class="quiet" aria-label="The search before" title="[" onClick={() => step(row, -1)}>{"\u2190"}</button>
        <button type="button" class="quiet" aria-label="The next search" title="]" onClick={() => step(row, 1)}>{"\u2192"}</button>
        <div>
          <h2 class="clamped" title={searches.text("prompt", row)}>{searches.text("prompt", row)}</h2>
          <p class="soft">
            seed {searches.text("seed", row)}{DOT}<span class="id">{searches.text("search_id", row)}</span>
            {DOT}<span class={status === "failed" ? "bad" : ""}>{status}</span>
            {DOT}search reward {number(searches.number("reward_search", row))}{judge.value && judge.value.key !== "reward_search" && <>, {judge.value.label} {number(searches.number(judge.value.key, row))}</>}
            {DOT}{costText(searches.number("nfe", row), "nfe")} NFE, {number(searches.number("replica_seconds", row))} replica-s
          </p>
        </div>
      </div>
      <nav class="arms" aria-label="Arms of this prompt and seed">
        {others.slice(0, 40).map(({ r, arm }) => (
          <a key={arm} href={address({ search: searches.text("search_id", r) })} aria-current={r === row ? "page" : undefined}><Swatch arm={names[arm]} />{names[arm]} <small>{number(searches.number("reward_search", r))}</small></a>
        ))}
      </nav>
    </div>
  );
}

function Lineage({ found, row }) {
  const { table } = found;
  const [selected, setSelected] = useState(found.winner >= 0 ? found.winner : found.start);
  const [hover, setHover] = useState(-1);
  const [hidden, setHidden] = useState(0);
  const components = ["reward", ...(run.value.manifest.components ?? []).filter((name) => table.has(name))];
  const by = components.includes(view.value.colour) ? view.value.colour : "reward";
  const axis = Object.hasOwn(AXES, view.value.tx) && available(table, view.value.tx) ? view.value.tx : "sigma";
  const order = Object.hasOwn(ORDERS, view.value.order) ? view.value.order : "lineage";
  const parts = useMemo(() => [...new Set(found.lines.map((l) => l.part))].sort((a, b) => a - b), [found]);
  const part = parts.includes(Number(view.value.part) - 1) ? Number(view.value.part) - 1 : null;
  const colours = useMemo(() => scaled(found, by), [found, by]);
  return (
    <>
      <div class="bar">
        <Tabs />
        <Choice label="x" value={axis} options={Object.entries(AXES).filter(([k]) => available(table, k)).map(([k, title]) => [k, k === "nfe" ? "NFE" : k, title])} onChange={(tx) => choose({ tx })} />
        <Choice label="order" value={order} options={Object.entries(ORDERS).map(([k, title]) => [k, k, title])} onChange={(o) => choose({ order: o })} />
        {components.length > 1 && <Select label="colour" value={by} options={components.map((c) => [c, c])} onChange={(colour) => choose({ colour })} />}
        {parts.length > 1 && <Choice label="chunks" value={part === null ? "" : String(part + 1)} options={[["", "all"], ...parts.map((p) => [String(p + 1), String(p + 1)])]} onChange={(p) => choose({ part: p })} />}
        <span class="note">{count(found.end - found.start)} candidates, {count(found.lines.length)} trajectories{hidden > 0 && <>, {count(hidden)} not chosen, folded</>}</span>
        <span class="scale"><small>{number(colours.low)}</small><i class="viridis" /><small>{number(colours.high)}</small></span>
      </div>
      <div class="tree-body">
        <Drawing found={found} axis={axis} order={order} part={part} colours={colours} selected={selected} onSelect={setSelected} hover={hover} onHover={setHover} onFold={setHidden} />
        <Candidate found={found} row={hover >= 0 ? hover : selected} search={row} pinned={hover < 0 || hover === selected} />
      </div>
      <p class="legend-line soft">
        <b>{"\u25cf"}</b> kept <b>{"\u00d7"}</b> not chosen <b>{"\u25cb"}</b> not scored <b class="accent">{"\u25ce"}</b> winner; a dashed line perturbs, an arc to the left adds noise again, a solid one branches
      </p>
    </>
  );
}

const available = (table, axis) => table.has({ sigma: "sigma", step: "step", nfe: "nfe_after", wall: "asked_s" }[axis]);

/** A value from 0 to 1 for each row, null where there is none, and the ends of the scale. */
function scaled({ table, start, end }, by) {
  const values = table.column(by);
  let [low, high] = [Infinity, -Infinity];
  if (values) for (let i = start; i < end; i++) if (Number.isFinite(values[i])) [low, high] = [Math.min(low, values[i]), Math.max(high, values[i])];
  const of = (row) => (values && Number.isFinite(values[row]) ? (high > low ? (values[row] - low) / (high - low) : 0.7) : null);
  return { of, low, high };
}

export function Tabs() {
  const best = view.value.tab === "best";
  return (
    <div class="field"><div class="choice" role="group" aria-label="What is shown">
      <button type="button" aria-pressed={!best} onClick={() => choose({ tab: "" })}>tree</button>
      <button type="button" aria-pressed={best} onClick={() => choose({ tab: "best" })}>best so far</button>
    </div></div>
  );
}
