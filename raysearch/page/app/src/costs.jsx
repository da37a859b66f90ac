// What the run cost, and what its replicas did with the time.
import { scaleLinear } from "d3-scale";
import { area, curveStepAfter, line } from "d3-shape";
import { Empty, Price, Swatch } from "./controls.jsx";
import { NEEDS_PRICE, bytes, compact, count, duration, money, number, percent } from "./format.js";
import { price, run } from "./state.js";
import { useWidth } from "./width.js";

const HEIGHT = 96;
const EDGE = { left: 34, right: 24, top: 6, bottom: 18 };
const KINDS = ["denoiser", "scorer", "encoder"];

export function Costs() {
  const { manifest, utilisation, costs } = run.value;
  const kinds = KINDS.filter((k) => utilisation.has(`busy_${k}`));
  return (
    <>
      <div class="bar"><Price /><span class="note">{price.value ? `${money((manifest.run.replica_seconds / 3600) * price.value)} for all replica-seconds, as charged` : NEEDS_PRICE}</span></div>
      <Totals />
      <section class="card">
        <header><h2>Slots busy over time <small>of those that there were; the line is how much waits, on a scale of its own</small></h2></header>
        {!kinds.length || utilisation.n < 2 ? <Empty>This run recorded no timeline.</Empty> : kinds.map((kind) => <Busy key={kind} kind={kind} table={utilisation} />)}
      </section>
      <section class="card">
        <header><h2>By arm <small>replica-seconds as run; an item that arms share counts for the arm that asked first</small></h2></header>
        {!costs.n ? <Empty>This run recorded no costs.</Empty> : <Arms table={costs} />}
      </section>
    </>
  );
}

/** Facts of the whole run, with the last row of the timeline. */
function Totals() {
  const { manifest, timeline } = run.value;
  const { run: r } = manifest;
  const last = timeline.n - 1;
  const facts = [
    ["replica-hours", number(r.replica_seconds / 3600)],
    ["NFE run", compact(r.nfe_spent)],
    ["NFE wasted", r.wasted > 0 ? compact(r.wasted) : ""],
    ["saved by sharing", r.nfe > 0 && r.nfe_spent !== null ? percent(1 - r.nfe_spent / r.nfe) : ""],
    ["restarts", count(r.restarts)],
    ["evicted", count(r.evicted)],
    ["recomputed", count(r.recomputed)],
    ["in the store", last >= 0 && timeline.has("store_bytes") ? bytes(timeline.number("store_bytes", last)) : ""],
    ["failed", count(r.failed)],
  ];
  return <dl class="totals">{facts.filter(([, v]) => v && v !== "\u2013").map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

function Busy({ kind, table }) {
  const [box, width] = useWidth(900);
  const [busy, slots, waiting, elapsed] = [`busy_${kind}`, `slots_${kind}`, `waiting_${kind}`, "elapsed"].map((name) => table.column(name) ?? []);
  const rows = Array.from({ length: table.n }, (_, i) => i).filter((i) => Number.isFinite(busy[i]) && busy[i] >= 0);
  if (!rows.length) return null;
  const most = rows.reduce((m, i) => Math.max(m, slots[i] || 0, busy[i]), 1);
  const queue = rows.reduce((m, i) => Math.max(m, waiting[i] || 0), 0);
  const end = elapsed[table.n - 1] + (table.number("width_s", table.n - 1) || 0);
  const x = scaleLinear([elapsed[0], end], [EDGE.left, width - EDGE.right]);
  const y = scaleLinear([0, most], [HEIGHT - EDGE.bottom, EDGE.top]);
  const q = scaleLinear([0, queue || 1], [HEIGHT - EDGE.bottom, EDGE.top]);
  // A bin before the fleet's first word has -1 slots and -1 waiting: nobody knows yet.
  const known = (of) => (i) => Math.max(0, of[i] || 0);
  const shape = (value) => area((i) => x(elapsed[i]), y(0), (i) => y(value(i))).curve(curveStepAfter)(rows);
  const there = rows.reduce((sum, i) => sum + (slots[i] || 0), 0);
  // Slots are counted at moments and busy ones on average, so that a bin may have more of these.
  const mean = there ? Math.min(1, rows.reduce((sum, i) => sum + busy[i], 0) / there) : NaN;
  const sessions = rows.filter((i, k) => k && table.number("session", i) !== table.number("session", rows[k - 1]));
  return (
    <div class="busy" ref={box}>
      <h3>{kind}s <small>{percent(mean)} busy on average{queue > 0 && `, at most ${number(queue, 0)} waiting`}</small></h3>
      <svg width={width} height={HEIGHT} role="img" aria-label={`${kind}s: ${percent(mean)} of slots busy on average`} font-size="10">
        <path d={shape(known(slots))} fill="var(--line)" opacity="0.6" />
        <path d={shape((i) => busy[i])} class={`kind-${kind}`} />
        {queue > 0 && <path d={line((i) => x(elapsed[i]), (i) => q(known(waiting)(i)))(rows)} fill="none" stroke="var(--soft)" stroke-width="1" opacity="0.75" />}
        {sessions.map((i) => <line key={i} x1={x(elapsed[i])} x2={x(elapsed[i])} y1={EDGE.top} y2={HEIGHT - EDGE.bottom} stroke="var(--bad)" stroke-dasharray="3 3"><title>resumed</title></line>)}
        <text x={EDGE.left - 6} y={y(most) + 8} text-anchor="end" fill="var(--soft)">{number(most, 0)}</text>
        <text x={EDGE.left - 6} y={y(0)} text-anchor="end" fill="var(--soft)">0</text>
        {x.ticks(7).map((t) => <text key={t} x={x(t)} y={HEIGHT - 4} text-anchor="middle" fill="var(--soft)">{t ? duration(t) : "0"}</text>)}
      </svg>
    </div>
  );
}

const PARTS = [["denoise_s", "denoise"], ["look_s", "preview + reward"], ["finish_s", "decode + reward"], ["compare_s", "compare"], ["encode_s", "encode"]];
const CHARGED = [["making_s", "making"], ["scoring_s", "reward"]];

function Arms({ table }) {
  const traced = PARTS.some(([name]) => table.has(name));
  const parts = (traced ? PARTS : CHARGED).filter(([name]) => table.has(name));
  const rows = Array.from({ length: table.n }, (_, i) => i);
  const sum = (i) => parts.reduce((s, [name]) => s + (table.number(name, i) || 0), 0);
  const most = Math.max(1e-9, ...rows.map(sum));
  const lost = rows.some((i) => table.number("lost_items", i) > 0);
  const both = table.has("nfe_run") && table.has("nfe_spent");
  // What searches that have not ended ran is not charged yet, so it cannot be told from what was run again.
  const { searches, done } = run.value.manifest.run;
  const again = both && done >= searches;
  return (
    <div class="scroll">
      <ul class="key">{parts.map(([name, text], k) => <li key={name}><i class={`swatch part-${k}`} />{text}</li>)}</ul>
      <table class="figures costs-table">
        <thead><tr><th scope="col">arm</th><th scope="col" class="wide">seconds</th><th scope="col">sum</th>{parts.map(([name, text]) => <th scope="col" key={name}>{text}</th>)}
          {table.has("waited_s") && <th scope="col" title="seconds that items stood in the queue">waited</th>}<th scope="col">NFE run</th>{again && <th scope="col" title="NFE that was run beyond what the searches were charged: made again, or lost">recomputed</th>}{lost && <th scope="col">lost items</th>}<th scope="col">searches</th>{price.value > 0 && <><th scope="col">$</th><th scope="col">$ a search</th></>}</tr></thead>
        <tbody>{rows.map((i) => {
          const spent = both ? table.number("nfe_run", i) : table.number("nfe_spent", i);
          const more = again ? Math.max(0, table.number("nfe_run", i) - table.number("nfe_spent", i)) : NaN;
          const dollars = (sum(i) / 3600) * price.value;
          return (
            <tr key={i}>
              <th scope="row"><span class="name"><Swatch arm={table.text("arm", i)} />{table.text("arm", i)}</span></th>
              <td class="wide"><div class="stack" style={{ width: `${(100 * sum(i)) / most}%` }}>{parts.map(([name, text], k) => table.number(name, i) > 0 && <i key={name} class={`part-${k}`} title={`${text}: ${number(table.number(name, i))} s`} style={{ flexGrow: table.number(name, i) }} />)}</div></td>
              <td>{compact(sum(i)) }</td>{parts.map(([name]) => <td key={name} class="soft">{number(table.number(name, i), 1)}</td>)}
              {table.has("waited_s") && <td class="soft">{number(table.number("waited_s", i), 1)}</td>}<td>{compact(spent)}</td>{again && <td class="soft">{compact(more)}</td>}{lost && <td class="soft">{count(table.number("lost_items", i))}</td>}<td class="soft">{count(table.number("searches", i))}</td>
              {price.value > 0 && <><td>{money(dollars)}</td><td>{money(dollars / table.number("searches", i))}</td></>}
            </tr>
          );
        })}</tbody>
      </table>
    </div>
  );
}
