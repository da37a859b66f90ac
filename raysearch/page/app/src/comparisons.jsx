// A row an arm: its mean, what it gains over the baseline in pairs, and a bar with the interval of the gain.
import { scaleLinear } from "d3-scale";
import { useState } from "preact/hooks";
import { Empty, Swatch } from "./controls.jsx";
import { colour, costText, count, number, percent, signed } from "./format.js";
import { address, baseline, choose, comparable, cost, costOf, filtered, index, measure, run, shown, view } from "./state.js";

const WIDTH = 220;

/** The whole run's row of an arm, with its intervals; Python computes these. */
function wholeRun() {
  const { comparisons } = run.value.manifest;
  const over = comparisons?.[baseline.value]?.[measure.value?.key] ?? [];
  return new Map(over.map((row) => [row.arm, row]));
}

/** Of what is shown, for each arm: n, mean, paired mean difference, share of wins and mean cost. Without intervals. */
function ofShown() {
  const { names, arm, group, groups, at } = index.value;
  const { searches } = run.value;
  const key = measure.value?.key;
  const base = at.get(baseline.value);
  const sums = names.map(() => ({ n: 0, sum: 0, pairs: 0, delta: 0, win: 0, costs: 0, cost: 0, failed: 0 }));
  const status = searches.column("status");
  const failed = searches.values("status").indexOf("failed");
  const finished = searches.values("status").map((s) => s === "done" || s === "budget");
  const value = (row) => (row >= 0 && finished[status[row]] ? searches.number(key, row) : NaN);
  const like = names.map((name) => comparable(name, key));
  for (const row of shown.value) {
    const s = sums[arm[row]];
    if (status && status[row] === failed) s.failed++;
    const x = value(row);
    const c = finished[status[row]] || status[row] === failed ? costOf(row) : NaN;
    if (Number.isFinite(c)) (s.costs++, (s.cost += c));
    if (!Number.isFinite(x)) continue;
    (s.n++, (s.sum += x));
    const y = value(groups[group[row]][base]);
    if (!Number.isFinite(y) || arm[row] === base || !like[arm[row]]) continue;
    (s.pairs++, (s.delta += x - y), (s.win += x > y ? 1 : x === y ? 0.5 : 0));
  }
  return new Map(sums.map((s, i) => [names[i], { n: s.n, mean: s.sum / s.n, pairs: s.pairs, delta: s.delta / s.pairs, win: s.win / s.pairs, cost: s.cost / s.costs, failed: s.failed }]));
}

const SORTS = {
  arm: (r) => r.i, n: (r) => -r.now.n, mean: (r) => -(r.now.mean ?? -Infinity), delta: (r) => -(r.now.delta ?? -Infinity),
  win: (r) => -(r.now.win ?? -Infinity), cost: (r) => r.now.cost ?? Infinity, failed: (r) => -r.now.failed,
};

export function Comparisons() {
  const [sort, setSort] = useState("arm");
  if (!measure.value) return <Empty>No search has a reward.</Empty>;
  const whole = wholeRun();
  const part = filtered.value ? ofShown() : null;
  const whatCost = (row) => (row ? row[cost.value.key] * cost.value.factor() : NaN);
  let rows = index.value.names.map((name, i) => {
    const all = whole.get(name);
    return { name, i, all, now: part ? part.get(name) : all ? { ...all, cost: whatCost(all) } : ofShown().get(name) };
  });
  const wanted = view.value.arm?.split(",");
  if (wanted) rows = rows.filter((r) => wanted.includes(r.name));
  rows.sort((a, b) => SORTS[sort](a) - SORTS[sort](b) || a.i - b.i);
  const ends = rows.flatMap((r) => [r.all?.delta_low, r.all?.delta_high, r.all?.delta, part ? r.now.delta : null]).filter((x) => x !== null && Number.isFinite(x));
  const x = scaleLinear([Math.min(0, ...ends), Math.max(0, ...ends)], [14, WIDTH - 14]).nice();
  const head = (key, text, title) => (
    <th scope="col" aria-sort={sort === key ? (key === "arm" || key === "cost" ? "ascending" : "descending") : undefined}>
      <button type="button" class="sort" title={title} onClick={() => setSort(key)}>{text}</button>
    </th>
  );
  return (
    <section class="card">
      <header>
        <h2>What each arm gains <small>{measure.value.label} over {baseline.value}, same prompt and seed</small></h2>
        {part && <p class="note">Means are of the searches shown. Grey bars and intervals are for the whole run.</p>}
      </header>
      <div class="scroll">
        <table class="figures">
          <thead>
            <tr>
              {head("arm", "arm", "in the order of the config")}
              {head("n", "n", "winners with this measure")}
              {head("mean", "mean", "mean over searches")}
              <th scope="col" class="soft">95%</th>
              {head("delta", "\u0394 paired", "mean difference to the baseline, of the same prompts and seeds")}
              <th scope="col" class="soft">95%</th>
              {head("win", "win", "share of pairs in which the arm is better")}
              {head("cost", cost.value.label, cost.value.long)}
              {head("failed", "failed", "searches that failed")}
              <th scope="col" class="forest" aria-label="paired difference"><Axis x={x} /></th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ name, i, all, now }) => {
              const base = name === baseline.value;
              return (
                <tr key={name} class={base ? "base" : ""}>
                  <th scope="row">
                    <button type="button" class="name" title="Make this the baseline" onClick={() => choose({ base: name })}><Swatch arm={name} />{name}</button>
                  </th>
                  <td>{count(now.n)}</td>
                  <td>{number(now.mean)}</td>
                  <td class={part ? "soft dim" : "soft"}>{interval(all?.low, all?.high, number)}</td>
                  <td class={clear(all) && !part ? "sure" : ""}>{base ? <span class="soft">baseline</span> : signed(now.delta)}</td>
                  <td class={part ? "soft dim" : "soft"}>{base ? "" : interval(all?.delta_low, all?.delta_high, signed)}</td>
                  <td>{base ? "" : percent(now.win)}</td>
                  <td>{costText(now.cost, cost.value.name)}</td>
                  <td class={now.failed ? "bad" : "soft"}>{now.failed ? <a href={address({ screen: "failures" })}>{now.failed}</a> : "0"}</td>
                  <td class="forest"><Bar x={x} all={base ? null : all} now={part && !base ? now : null} i={i} /></td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </section>
  );
}

const clear = (row) => row && Number.isFinite(row.delta_low) && row.delta_low !== null && row.delta_low * row.delta_high > 0;
const interval = (low, high, text) => (Number.isFinite(low) && low !== null && Number.isFinite(high) ? `[${text(low)}, ${text(high)}]` : "");

function Axis({ x }) {
  return (
    <svg width={WIDTH} height="16" aria-hidden="true">
      {x.ticks(4).map((t) => <text key={t} x={x(t)} y="12" class="tick" text-anchor="middle">{t === 0 ? "0" : signed(t).replace(/\.?0+$/, "")}</text>)}
    </svg>
  );
}

function Bar({ x, all, now, i }) {
  const there = all && all.delta !== null && Number.isFinite(all.delta);
  const whole = there && all.delta_low !== null && Number.isFinite(all.delta_low);
  const ink = colour(i);
  return (
    <svg width={WIDTH} height="22" role="img" aria-label={there ? `${signed(all.delta)} ${interval(all.delta_low, all.delta_high, signed)}` : "baseline"}>
      <line x1={x(0)} x2={x(0)} y1="0" y2="22" class="zero" />
      {whole && <line x1={x(all.delta_low)} x2={x(all.delta_high)} y1="11" y2="11" stroke={now ? "var(--line-strong)" : ink} stroke-width={now ? 5 : 2.5} stroke-linecap="round" />}
      {there && !now && <rect x={x(all.delta) - 4} y="7" width="8" height="8" rx="2" fill={ink} />}
      {now && Number.isFinite(now.delta) && <path d={`M${x(now.delta)} 4l6 7-6 7-6-7z`} fill={ink} />}
    </svg>
  );
}
