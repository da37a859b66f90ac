// The best reward so far against what the search had spent, beside the other arms of the same prompt and seed.
import { scaleLinear } from "d3-scale";
import { curveStepAfter, line } from "d3-shape";
import { useEffect, useState } from "preact/hooks";
import { Empty } from "./controls.jsx";
import { colour, costText } from "./format.js";
import { index, run, view, choose } from "./state.js";
import { Choice } from "./controls.jsx";
import { Tabs } from "./tree.jsx";
import { useWidth } from "./width.js";

const EDGE = { left: 46, right: 120, top: 14, bottom: 38 };

/** Steps of the best finished reward so far; of all scores if none is of a finished candidate. */
function steps({ table, start, end }, axis) {
  const [reward, nfe, asked, step, steps] = ["reward", "nfe_after", "asked_s", "step", "num_steps"].map((n) => table.column(n));
  const spent = axis === "wall" ? asked : nfe;
  if (!reward || !spent) return [];
  const scored = [];
  for (let i = start; i < end; i++) if (Number.isFinite(reward[i]) && spent[i] >= 0) scored.push(i);
  const whole = step && steps ? scored.filter((i) => step[i] === steps[i]) : [];
  const rows = (whole.length ? whole : scored).sort((a, b) => spent[a] - spent[b]);
  const found = [];
  let best = -Infinity;
  for (const i of rows) {
    if (reward[i] > best) found.push([spent[i], (best = reward[i])]);
  }
  if (found.length) found.push([spent[rows.at(-1)], best]);
  return found;
}

export function Best({ row }) {
  const [box, width] = useWidth(900);
  const [lines, setLines] = useState(null);
  const axis = view.value.tx === "wall" ? "wall" : "nfe";
  const { groups, group, names } = index.value;
  useEffect(() => {
    let there = true;
    const rows = [...groups[group[row]]].map((r, arm) => ({ r, arm })).filter(({ r }) => r >= 0).slice(0, 40);
    Promise.all(rows.map(async ({ r, arm }) => ({ r, arm, steps: steps(await run.value.candidatesOf(r), axis) }))).then((all) => there && setLines(all.filter((l) => l.steps.length)));
    return () => (there = false);
  }, [row, axis, run.value]);
  const height = 420;
  const points = (lines ?? []).flatMap((l) => l.steps);
  const x = scaleLinear([0, Math.max(1, ...points.map((p) => p[0]))], [EDGE.left, width - EDGE.right]);
  const ys = points.map((p) => p[1]);
  const y = scaleLinear([Math.min(...ys), Math.max(...ys)], [height - EDGE.bottom, EDGE.top]).nice(5);
  const name = y.tickFormat(5);
  const path = line((p) => x(p[0]), (p) => y(p[1])).curve(curveStepAfter);
  const own = lines?.find((l) => l.r === row);
  return (
    <>
      <div class="bar"><Tabs /><Choice label="x" value={axis} options={[["nfe", "NFE"], ["wall", "wall"]]} onChange={(tx) => choose({ tx })} /></div>
      <section class="card" ref={box}>
        <header><h2>Best so far <small>reward of finished candidates by {axis === "nfe" ? "NFE" : "seconds"} of the search</small></h2></header>
        {!points.length ? <Empty>{lines ? "This run's candidates do not say what the search had spent when they were scored." : "Reading the candidates..."}</Empty> : (
          <svg width={width} height={height} role="img" aria-label="Best reward so far" font-size="11">
            {y.ticks(5).map((t) => <g key={t}><line x1={EDGE.left} x2={width - EDGE.right} y1={y(t)} y2={y(t)} stroke="var(--line)" /><text x={EDGE.left - 8} y={y(t) + 4} text-anchor="end" fill="var(--soft)">{name(t)}</text></g>)}
            {x.ticks(7).map((t) => <text key={t} x={x(t)} y={height - EDGE.bottom + 17} text-anchor="middle" fill="var(--soft)">{costText(t, axis)}</text>)}
            <text x={(EDGE.left + width - EDGE.right) / 2} y={height - 5} text-anchor="middle" fill="var(--soft)">{axis === "nfe" ? "NFE" : "seconds"}</text>
            {[...lines].sort((a, b) => (a === own) - (b === own)).map((l) => (
              <g key={l.arm} opacity={l === own ? 1 : 0.4}>
                <path d={path(l.steps)} fill="none" stroke={colour(l.arm)} stroke-width={l === own ? 2.6 : 1.4} />
                {l.steps.map((p, i) => <circle key={i} cx={x(p[0])} cy={y(p[1])} r={l === own ? 3.4 : 2} fill={colour(l.arm)} />)}
              </g>
            ))}
            {labels(lines, (l) => y(l.steps.at(-1)[1])).map(([l, at]) => (
              <text key={l.arm} x={x(l.steps.at(-1)[0]) + 8} y={at + 4} fill={l === own ? colour(l.arm) : "var(--soft)"} font-weight={l === own ? 600 : 400}>{names[l.arm]}</text>
            ))}
          </svg>
        )}
      </section>
    </>
  );
}

/** Places of labels that do not cover each other: each at least 13 pixels below the one above. */
function labels(lines, at) {
  let last = -Infinity;
  return [...lines].sort((a, b) => at(a) - at(b)).map((l) => [l, (last = Math.max(at(l), last + 13))]);
}
