// Quality over cost as SVG, with bands and fitted laws; it can be saved for a paper.
import { scaleLinear, scaleLog } from "d3-scale";
import { area, line } from "d3-shape";
import { useRef, useState } from "preact/hooks";
import { NEEDS_PRICE, colour, costText, number } from "./format.js";
import { cost, download, filtered, index, measure, run, unpriced } from "./state.js";
import { useWidth } from "./width.js";

const HEIGHT = 330;
const EDGE = { left: 46, right: 14, top: 12, bottom: 38 };

/** Curves of the measure: those of a sweep, or else a point for each arm. */
function series() {
  const { curves, comparisons, baseline } = run.value.manifest;
  const key = measure.value?.key;
  const found = curves?.[key];
  if (found?.length) return found.map((c, i) => ({ ...c, name: c.series, ink: colour(index.value.at.get(c.points[0]?.arm) ?? i) }));
  const rows = Object.values(comparisons ?? {}).length ? (comparisons[baseline] ?? Object.values(comparisons)[0])[key] : null;
  return (rows ?? []).map((r) => ({
    name: r.arm, law: null, ink: colour(index.value.at.get(r.arm) ?? 0),
    points: [{ arm: r.arm, cost: { nfe: r.nfe, seconds: r.seconds, wall: r.wall }, mean: r.mean, low: r.low, high: r.high }],
  }));
}

const finite = (x) => x !== null && Number.isFinite(x);

export function Curves() {
  const [box, width] = useWidth(520);
  const svg = useRef(null);
  const [only, setOnly] = useState(null);
  if (!measure.value) return null;
  const at = (p) => p.cost?.[cost.value.key] * cost.value.factor();
  const drawn = series()
    .map((s) => ({ ...s, points: s.points.filter((p) => finite(p.mean) && at(p) > 0).sort((a, b) => at(a) - at(b)) }))
    .filter((s) => s.points.length);
  const points = drawn.flatMap((s) => s.points);
  const swept = drawn.some((s) => s.points.length > 1);
  const laws = cost.value.name === "nfe";
  if (!points.length) return <section class="card"><header><h2>Quality over cost</h2></header><p class="empty">{unpriced.value ? NEEDS_PRICE : "No arm has both a cost and a mean."}</p></section>;
  const costs = points.map(at);
  const [low, high] = [Math.min(...costs), Math.max(...costs)];
  const wide = high / low > 6;
  const ends = wide ? [low * 0.85, high * 1.15] : [low - (high - low) * 0.06 || low * 0.9, high + (high - low) * 0.06 || high * 1.1];
  const x = (wide ? scaleLog : scaleLinear)(ends, [EDGE.left, width - EDGE.right]);
  const ys = points.flatMap((p) => [p.low, p.high, p.mean]).filter(finite);
  const pad = (Math.max(...ys) - Math.min(...ys)) * 0.06 || 0.1;
  const y = scaleLinear([Math.min(...ys) - pad, Math.max(...ys) + pad], [HEIGHT - EDGE.bottom, EDGE.top]).nice(5);
  const name = y.tickFormat(5);
  const band = area((p) => x(at(p)), (p) => y(p.low), (p) => y(p.high)).defined((p) => finite(p.low));
  const path = line((p) => x(at(p)), (p) => y(p.mean));
  const faint = (s) => (only !== null && only !== s.name ? 0.15 : 1);
  const save = () => download(`${run.value.manifest.run.name}-${measure.value.key}-${cost.value.name}.svg`, standalone(svg.current), "image/svg+xml");
  return (
    <section class="card" ref={box}>
      <header>
        <h2>Quality over cost <small>{measure.value.label} by {cost.value.long}{filtered.value && ", of the whole run"}</small></h2>
        <button type="button" class="quiet" onClick={save}>Save SVG</button>
      </header>
      <svg ref={svg} width={width} height={HEIGHT} viewBox={`0 0 ${width} ${HEIGHT}`} role="img" aria-label={`${measure.value.label} by ${cost.value.label}`} font-family="system-ui, sans-serif" font-size="11">
        {y.ticks(5).map((t) => (
          <g key={t}>
            <line x1={EDGE.left} x2={width - EDGE.right} y1={y(t)} y2={y(t)} stroke="var(--line)" />
            <text x={EDGE.left - 8} y={y(t) + 4} text-anchor="end" fill="var(--soft)">{name(t)}</text>
          </g>
        ))}
        {ticks(x, wide, costs).map((t) => <text key={t} x={x(t)} y={HEIGHT - EDGE.bottom + 17} text-anchor="middle" fill="var(--soft)">{costText(t, cost.value.name)}</text>)}
        <text x={(EDGE.left + width - EDGE.right) / 2} y={HEIGHT - 5} text-anchor="middle" fill="var(--soft)">{cost.value.label} per search{wide ? " (log)" : ""}</text>
        {drawn.map((s) => (
          <g key={s.name} opacity={faint(s)} style={{ transition: "opacity .15s" }}>
            {s.points.length > 1 && <path d={band(s.points)} fill={s.ink} opacity="0.13" />}
            {laws && s.law && <path d={line((q) => x(q[0]), (q) => y(q[1])).defined((q) => finite(q[1]) && q[0] >= x.domain()[0] && q[0] <= x.domain()[1])(s.law.xs.map((v, i) => [v, s.law.ys[i]]))} fill="none" stroke={s.ink} stroke-width="1.4" stroke-dasharray="2 4" />}
            {s.points.length > 1 && <path d={path(s.points)} fill="none" stroke={s.ink} stroke-width="2" />}
            {s.points.map((p) => (
              <g key={p.arm}>
                {finite(p.low) && <line x1={x(at(p))} x2={x(at(p))} y1={y(p.low)} y2={y(p.high)} stroke={s.ink} stroke-width="1.5" opacity="0.55" />}
                <circle cx={x(at(p))} cy={y(p.mean)} r="4" fill={s.ink} stroke="var(--card)" stroke-width="1.5">
                  <title>{`${p.arm}: ${number(p.mean)} [${number(p.low)}, ${number(p.high)}] at ${costText(at(p), cost.value.name)} ${cost.value.label}`}</title>
                </circle>
              </g>
            ))}
          </g>
        ))}
      </svg>
      <ul class="legend">
        {drawn.map((s) => (
          <li key={s.name} onMouseEnter={() => setOnly(s.name)} onMouseLeave={() => setOnly(null)}>
            <button type="button" onFocus={() => setOnly(s.name)} onBlur={() => setOnly(null)}><i class="swatch" style={{ background: s.ink }} />{s.name}</button>
            {swept && laws && s.law && <small>{s.law.text}</small>}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Few enough ticks not to touch each other. */
function ticks(x, wide, costs) {
  if (!wide) return x.ticks(6);
  const there = [...new Set(costs.map((c) => +c.toPrecision(2)))].sort((a, b) => a - b);
  const all = there.length <= 8 ? there : x.ticks(6);
  return all.reduce((kept, t) => (kept.length && x(t) - x(kept.at(-1)) < 44 ? kept : [...kept, t]), []);
}

const PAPER = { "--line": "#e3e3e3", "--soft": "#555555", "--card": "#ffffff", "--line-strong": "#999999" };

/** A drawing as a file of its own, in the colours of a white page. */
function standalone(element) {
  const copy = element.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return new XMLSerializer().serializeToString(copy).replace(/var\((--[a-z-]+)\)/g, (_, name) => PAPER[name] ?? "#000000");
}
