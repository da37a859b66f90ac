// All searches that the filters let through, one a line: the way by keyboard to any of them.
import { useMemo, useState } from "preact/hooks";
import { Swatch } from "./controls.jsx";
import { costText, count, number, signed } from "./format.js";
import { useKeys } from "./keys.jsx";
import { address, baseline, choose, cost, costOf, gainOf, judge, measure, price, run, shown, treeOf, view } from "./state.js";
import { VirtualList } from "./virtual.jsx";

/** Rows in the order of a column; numbers fall, texts rise, and what is missing comes last. */
function ordered(rows, value) {
  const keys = new Float64Array(run.value.searches.n);
  for (const row of rows) {
    const v = value(row);
    keys[row] = Number.isFinite(v) ? v : Infinity;
  }
  return Int32Array.from(rows).sort((a, b) => keys[a] - keys[b] || a - b);
}

export function Searches() {
  const { searches } = run.value;
  const [sort, setSort] = useState("order");
  const [at, setAt] = useState(-1);
  const chosen = measure.value?.key;
  const judged = judge.value?.key;
  const sorts = {
    order: (row) => row,
    prompt: (row) => searches.column("prompt")[row],
    arm: (row) => searches.column("arm")[row],
    search: (row) => -searches.number("reward_search", row),
    judge: (row) => -searches.number(judged, row),
    gain: (row) => -gainOf(row, chosen),
    apart: (row) => -(searches.number("reward_search", row) - searches.number(judged, row)),
    cost: costOf,
  };
  const rows = useMemo(() => (sort === "order" ? shown.value : ordered(shown.value, sorts[sort])), [shown.value, sort, chosen, judged, cost.value, price.value, baseline.value, run.value]);
  const open = (row) => choose({ screen: "tree", search: searches.text("search_id", row) });
  const move = (by) => setAt((old) => Math.min(rows.length - 1, Math.max(0, old + by)));
  useKeys("Overview", [
    ["ArrowDown", "The next search of the list", () => move(1)],
    ["ArrowUp", "The one before", () => move(-1)],
    ["PageDown", "Ten on", () => move(10)],
    ["PageUp", "Ten back", () => move(-10)],
    ["Enter", "The tree of the selected search", () => rows[at] !== undefined && open(rows[at])],
    ["g", "The gallery, with the same filters", () => choose({ screen: "gallery" })],
  ]);
  const head = (name, text, title) => (
    <span role="columnheader" aria-sort={sort === name ? "other" : undefined}><button type="button" class="sort" title={title} onClick={() => setSort(name)}>{text}</button></span>
  );
  return (
    <section class="card">
      <header><h2>Searches <small>{count(rows.length)}</small></h2><a href={address({ screen: "gallery" })}>Watch these in the gallery</a></header>
      <div role="table" aria-label="Searches" class="listing">
        <div class="line head" role="row">
          {head("prompt", "prompt", "by prompt")}<span role="columnheader">seed</span>{head("arm", "arm", "by arm")}<span role="columnheader">status</span>
          {head("search", "search", "by the search's own reward")}{head("judge", judge.value?.label ?? "judge", "by the judge's reward")}
          {head("gain", "gain", "over the baseline, same prompt and seed")}{head("apart", "apart", "search reward minus the judge's")}{head("cost", cost.value.label, cost.value.long)}
        </div>
        <VirtualList n={rows.length} height={30} selected={at} recycle class="searches" deps={[rows, view.value, run.value]} state={(i) => i === at} role="rowgroup" label="Searches; arrow keys move, Enter opens the tree"
          row={(i, style, key) => {
            const row = rows[i];
            const status = searches.text("status", row);
            const own = searches.number("reward_search", row);
            const other = searches.number(judged, row);
            return (
              <a key={key} class={`line ${i === at ? "selected" : ""}`} role="row" tabIndex={-1} style={style} href={treeOf(searches.text("search_id", row))}>
                <span role="cell" class="prompt">{searches.text("prompt", row)}</span>
                <span role="cell">{searches.text("seed", row)}</span>
                <span role="cell" class="prompt"><Swatch arm={searches.text("arm", row)} />{searches.text("arm", row)}</span>
                <span role="cell" class={status === "failed" ? "bad" : "soft"}>{status}</span>
                <span role="cell">{number(own)}</span>
                <span role="cell">{number(other)}</span>
                <span role="cell">{signed(gainOf(row, chosen))}</span>
                <span role="cell">{signed(own - other)}</span>
                <span role="cell">{costText(costOf(row), cost.value.name)}</span>
              </a>
            );
          }} />
      </div>
    </section>
  );
}
