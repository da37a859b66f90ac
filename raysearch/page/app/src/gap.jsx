// Search reward minus judged reward over cost: where the search's reward misled it. A dot a search, on a canvas.
import { quadtree } from "d3-quadtree";
import { scaleLinear, scaleLog } from "d3-scale";
import { useEffect, useRef, useState } from "preact/hooks";
import { onTheme, prepared, theme } from "./canvas.js";
import { NEEDS_PRICE, colour, costText, number, signed } from "./format.js";
import { choose, cost, costOf, index, judge, measure, price, run, shown, unpriced } from "./state.js";
import { useWidth } from "./width.js";

const HEIGHT = 360;
const EDGE = { left: 46, right: 14, top: 12, bottom: 38 };

/** Dots of the searches shown, with the scales that place them. */
function dots(width) {
  const { searches } = run.value;
  const found = [];
  for (const row of shown.value) {
    const gap = searches.number("reward_search", row) - searches.number(judge.value.key, row);
    const c = costOf(row);
    if (Number.isFinite(gap) && c > 0) found.push({ row, gap, c });
  }
  if (!found.length) return null;
  let [low, high, bottom, top] = [Infinity, 0, 0, 0];
  for (const d of found) {
    low = Math.min(low, d.c); high = Math.max(high, d.c);
    bottom = Math.min(bottom, d.gap); top = Math.max(top, d.gap);
  }
  const wide = high / low > 6;
  const span = wide ? [low / 1.2, high * 1.2] : [low - (high - low) * 0.08 || low * 0.9, high + (high - low) * 0.08 || high * 1.1];
  const x = (wide ? scaleLog : scaleLinear)(span, [EDGE.left, width - EDGE.right]);
  const y = scaleLinear([bottom, top], [HEIGHT - EDGE.bottom, EDGE.top]).nice(5);
  // Searches of an arm often cost the same; a shift that depends on the row alone parts them.
  for (const d of found) {
    d.x = x(d.c) + (((d.row * 2654435761) >>> 0) / 2 ** 32 - 0.5) * 14;
    d.y = y(d.gap);
  }
  return { found, x, y, wide };
}

export function Gap() {
  const [box, width] = useWidth(520);
  const canvas = useRef(null);
  const [near, setNear] = useState(null);
  const there = judge.value && run.value.searches.has("reward_search") && judge.value.key !== "reward_search";
  const made = useRef(null);
  useEffect(() => {
    if (!there) return undefined;
    const found = dots(width);
    made.current = found && { ...found, tree: quadtree(found.found, (d) => d.x, (d) => d.y) };
    const draw = () => canvas.current && paint(canvas.current, width, found);
    draw();
    return onTheme(draw);
  }, [width, shown.value, cost.value, price.value, judge.value, there]);
  if (!measure.value) return null;
  const name = judge.value?.label;
  const find = (e) => {
    const [px, py] = [e.offsetX, e.offsetY];
    const hit = made.current?.tree.find(px, py, 14) ?? null;
    if (hit !== near) setNear(hit);
  };
  const { searches } = run.value;
  return (
    <section class="card" ref={box}>
      <header><h2>Search reward and {name ?? "judge"} apart <small>high: the search's reward misled it</small></h2></header>
      {!there ? <p class="empty">No reward judged these winners: rewards.holdout in the config does.</p> : (
        <div class="plot">
          <canvas ref={canvas} aria-label={`How far search reward and ${name} are apart, of ${shown.value.length} searches; the table below lists them`} role="img"
            onMouseMove={find} onMouseLeave={() => setNear(null)} onClick={() => near && choose({ screen: "tree", search: searches.text("search_id", near.row) })} style={{ cursor: near ? "pointer" : "default" }} />
          {near && (
            <div class="tip" style={{ left: `${Math.min(near.x + 14, width - 250)}px`, top: `${Math.max(8, near.y - 60)}px` }}>
              <b><i class="swatch" style={{ background: colour(index.value.arm[near.row]) }} />{searches.text("arm", near.row)}</b> seed {searches.text("seed", near.row)}
              <p>{searches.text("prompt", near.row)}</p>
              <span>search {number(searches.number("reward_search", near.row))}, {name} {number(searches.number(judge.value.key, near.row))}, apart {signed(near.gap)}; {costText(near.c, cost.value.name)} {cost.value.label}</span>
              <small>click: its tree</small>
            </div>
          )}
        </div>
      )}
    </section>
  );
}

function paint(canvas, width, made) {
  const c = prepared(canvas, width, HEIGHT);
  const t = theme();
  c.font = "11px system-ui, sans-serif";
  if (!made) {
    c.fillStyle = t.soft;
    c.textAlign = "left";
    c.fillText(unpriced.value ? NEEDS_PRICE : "No search shown has both rewards.", EDGE.left, 40);
    return;
  }
  const { found, x, y, wide } = made;
  c.textAlign = "right";
  const name = y.tickFormat(5);
  for (const v of y.ticks(5)) {
    c.strokeStyle = v === 0 ? t.strong : t.line;
    c.beginPath(); c.moveTo(EDGE.left, y(v)); c.lineTo(width - EDGE.right, y(v)); c.stroke();
    c.fillStyle = t.soft;
    c.fillText(name(v), EDGE.left - 8, y(v) + 4);
  }
  c.textAlign = "center";
  let last = -Infinity;
  for (const v of wide ? x.ticks(5) : x.ticks(6)) {
    if (x(v) - last < 46) continue;
    last = x(v);
    c.fillText(costText(v, cost.value.name), x(v), HEIGHT - EDGE.bottom + 17);
  }
  c.fillText(`${cost.value.label} of a search${wide ? " (log)" : ""}`, (EDGE.left + width) / 2, HEIGHT - 5);
  const many = found.length > 3000;
  c.globalAlpha = many ? 0.45 : 0.75;
  const r = many ? 1.8 : found.length > 400 ? 2.6 : 3.6;
  const { arm, names } = index.value;
  for (let a = 0; a < names.length; a++) {
    c.fillStyle = colour(a);
    c.beginPath();
    for (const d of found) {
      if (arm[d.row] !== a) continue;
      c.moveTo(d.x + r, d.y);
      c.arc(d.x, d.y, r, 0, 7);
    }
    c.fill();
  }
  c.globalAlpha = 1;
}
