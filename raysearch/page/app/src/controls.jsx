// Selectors, filters and empty states, as all screens use them.
import { choose, filtered, measure, measures, baseline, cost, COSTS, index, price, run, shown, tags, view } from "./state.js";
import { colour, count } from "./format.js";

export function Select({ label, value, options, onChange, title }) {
  return (
    <label class="field" title={title}>
      <span>{label}</span>
      <select aria-label={label} value={value} onChange={(e) => onChange(e.currentTarget.value)}>
        {options.map(([v, text]) => <option key={v} value={v}>{text}</option>)}
      </select>
    </label>
  );
}

/** A row of buttons of which one is pressed. */
export function Choice({ label, value, options, onChange }) {
  return (
    <div class="field" role="group" aria-label={label}>
      <span>{label}</span>
      <div class="choice">
        {options.map(([v, text, title]) => (
          <button type="button" key={v} aria-pressed={v === value} title={title} onClick={() => onChange(v)}>{text}</button>
        ))}
      </div>
    </div>
  );
}

export const Swatch = ({ arm }) => <i class="swatch" style={{ background: colour(index.value.at.get(arm) ?? 0) }} />;

export function BaselineAndMeasure() {
  return (
    <>
      {index.value.names.length > 1 && <Select label="baseline" value={baseline.value} options={index.value.names.map((n) => [n, n])} onChange={(v) => choose({ base: v })} />}
      {measures.value.length > 0 && (
        <Select label="measure" value={measure.value.key} options={measures.value.map((m) => [m.key, m.label])} onChange={(v) => choose({ m: v })} />
      )}
    </>
  );
}

export function CostAxis() {
  const options = Object.entries(COSTS).map(([name, c]) => [name, c.label, c.long]);
  return (
    <>
      <Choice label="cost" value={cost.value.name} options={options} onChange={(x) => choose({ x })} />
      {cost.value.name === "usd" && <Price />}
    </>
  );
}

export function Price() {
  return (
    <label class="field">
      <span>$ per replica-hour</span>
      <input type="number" min="0" step="0.1" class="short" value={price.value || ""} placeholder="2.50" onInput={(e) => choose({ price: e.currentTarget.value })} />
    </label>
  );
}

const title = (tag) => tag.replace(/^tag_/, "");

/** Filters by prompt, tag, seed, status and arm. */
export function Filters() {
  const { searches } = run.value;
  const v = view.value;
  const seeds = seedsOf(searches);
  const statuses = searches.values("status").filter(Boolean);
  let waiting;
  const typed = (e) => {
    clearTimeout(waiting);
    const q = e.currentTarget.value;
    waiting = setTimeout(() => choose({ q }), 120);
  };
  const options = (all, values) => [["", all], ...values.map((x) => [x, x])];
  const wanted = v.arm ? v.arm.split(",") : [];
  return (
    <form class="filters" role="search" onSubmit={(e) => e.preventDefault()}>
      <input id="prompt-filter" type="search" placeholder="filter prompts  ( / )" aria-label="Filter by the prompt's text" value={v.q ?? ""} onInput={typed} />
      {tags.value.length > 0 && (
        <Select label="tag" value={v.tag ?? ""} onChange={(tag) => choose({ tag })}
          options={[["", "all"], ...tags.value.flatMap((t) => searches.values(t).map((x) => [`${t}:${x}`, `${title(t)}: ${x}`]))]} />
      )}
      {seeds.length > 1 && <Select label="seed" value={v.seed ?? ""} options={options("all", seeds)} onChange={(seed) => choose({ seed })} />}
      {statuses.length > 1 && <Select label="status" value={v.status ?? ""} options={options("all", statuses)} onChange={(status) => choose({ status })} />}
      {index.value.names.length > 1 && (
        <Select label="arm" value={wanted.length > 1 ? "several" : (wanted[0] ?? "")} onChange={(arm) => choose({ arm })}
          options={[["", "all"], ...(wanted.length > 1 ? [["several", `${wanted.length} arms`]] : []), ...index.value.names.map((n) => [n, n])]} />
      )}
      {filtered.value && (
        <>
          <span class="note">{count(shown.value.length)} of {count(searches.n)} searches</span>
          <button type="button" class="quiet" onClick={() => choose({ q: "", tag: "", seed: "", status: "", arm: "" })}>Clear</button>
        </>
      )}
    </form>
  );
}

const seedLists = new WeakMap();

function seedsOf(searches) {
  if (!seedLists.has(searches)) {
    const seeds = [...new Set(searches.column("seed") ?? [])].sort((a, b) => a - b).map(String);
    seedLists.set(searches, seeds.slice(0, 200));
  }
  return seedLists.get(searches);
}

export const Empty = ({ children }) => <p class="empty">{children}</p>;
