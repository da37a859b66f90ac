// The gallery: a row for each prompt and seed, a column for each arm.
import { useEffect, useMemo, useState } from "preact/hooks";
import { blind, downloadVotes, newSeed, savedVotes, sides, vote, votes } from "./blind.js";
import { Clock } from "./clock.js";
import { BaselineAndMeasure, Choice, Empty, Filters, Swatch } from "./controls.jsx";
import { useKeys } from "./keys.jsx";
import { aspect, coarse, fps, media, still } from "./media.js";
import { columns, judged, ordered, SORTS } from "./order.js";
import { Row } from "./row.jsx";
import { address, baseline, choose, index, measures, run, say, view } from "./state.js";
import { VirtualList } from "./virtual.jsx";
import { useWidth } from "./width.js";
import { Wipe } from "./wipe.jsx";

export function Gallery() {
  const [box, width] = useWidth(1200);
  const clock = useMemo(() => new Clock(fps()), []);
  const [at, setAt] = useState(0);
  const [column, setColumn] = useState(0);
  const [active, setActive] = useState(null); // {group, play}
  const [wiping, setWiping] = useState(null);
  const groups = ordered.value;
  const arms = columns.value;
  const size = sizeOf(width, arms.length);
  const here = Math.min(at, groups.length - 1);
  const group = groups[here];
  useEffect(() => setActive(null), [view.value.sort, arms.join(), blind.value]);

  const cells = (g) => sides(arms, g).map((arm) => ({ arm, row: index.value.groups[g][index.value.at.get(arm)] }));
  const go = (rows, cols) => {
    setAt(Math.min(groups.length - 1, Math.max(0, here + rows)));
    setColumn(Math.min(arms.length - 1, Math.max(0, column + cols)));
  };
  const now = () => cells(group)[column];
  const playing = active && active.group === group;
  const needsActive = (act) => () => (playing ? act() : setActive({ group, play: false }));
  const wipe = () => {
    const there = cells(group);
    const films = there.map((c, i) => [c, i]).filter(([c]) => media(c.row, "video") && !still(media(c.row, "video"))).map(([, i]) => i);
    const base = there.findIndex((c) => c.arm === baseline.value);
    const first = films.includes(column) ? column : films[0];
    const second = films.includes(base) && base !== first ? base : films.find((i) => i !== first);
    if (second === undefined) return say("A wipe needs two videos in the row");
    clock.pause();
    return setWiping({ cells: there, left: Math.min(first, second), right: Math.max(first, second), title: run.value.searches.text("prompt", there[first].row) });
  };
  const ballot = (e) => {
    const there = cells(group);
    const i = Number(e.key) - 1;
    if (i >= there.length) return;
    vote(group, there.map((c) => c.arm), i < 0 ? "tie" : there[i].arm);
    if (here < groups.length - 1) {
      setAt(here + 1);
      if (playing) setActive({ group: groups[here + 1], play: clock.playing.value });
    }
  };
  const save = () => (downloadVotes(), savedVotes());
  useKeys("Gallery", [
    ["ArrowDown", "The next row", () => go(1, 0)],
    ["ArrowUp", "The row before", () => go(-1, 0)],
    ["ArrowRight", "The next video of the row", () => go(0, 1)],
    ["ArrowLeft", "The one before", () => go(0, -1)],
    [" ", "Play or pause the row on one clock", () => (playing ? clock.toggle() : setActive({ group, play: true }))],
    [",", "A frame back", needsActive(() => clock.step(-1))],
    [".", "A frame on", needsActive(() => clock.step(1))],
    ["-", "Slower", () => clock.setSpeed(clock.speed.value / 2)],
    [["+", "="], "Faster", () => clock.setSpeed(clock.speed.value * 2)],
    ["w", "Wipe the selected video over the baseline's", () => group !== undefined && wipe()],
    ...(blind.value
      ? [[["1", "2", "3", "4", "5", "6", "7", "8", "9"], "Vote for that video and go on", ballot], ["0", "Vote: a tie", ballot], ["d", "Download the votes as CSV", save]]
      : [
        ["o", "Open the original video", () => media(now()?.row, "video") && open(media(now().row, "video"), "_blank", "noreferrer")],
        ["Enter", "The tree of the selected search", () => now()?.row >= 0 && choose({ screen: "tree", search: run.value.searches.text("search_id", now().row) })],
      ]),
    ["b", "Blind comparison on or off", () => choose({ blind: blind.value ? "" : newSeed() })],
  ]);
  return (
    <>
      <div class="bar">
        <Choice label="sort" value={view.value.sort in SORTS ? view.value.sort : "gain"} options={Object.entries(SORTS).map(([k, [text, title]]) => [k, text, title])} onChange={(sort) => choose({ sort })} />
        {!blind.value && <BaselineAndMeasure />}
        <Columns />
        <label class="field check"><input type="checkbox" checked={blind.value > 0} onChange={() => choose({ blind: blind.value ? "" : newSeed() })} /><span>blind</span></label>
        {(blind.value > 0 || votes.value.size > 0) && (
          <button type="button" onClick={save} disabled={!votes.value.size}>Download {votes.value.size} vote{votes.value.size === 1 ? "" : "s"}</button>
        )}
        {!blind.value && <span class="note">search reward / {labelOf(judged.value)}, gain over {baseline.value}</span>}
        <Filters />
      </div>
      <div class={`fill ${coarse() ? "coarse" : ""}`} ref={box}>
        {!groups.length ? <Empty>{run.value.searches.n ? "No prompt and seed passes the filters." : "No search has ended yet."}</Empty> : (
          <VirtualList class="rows" deps={[groups, arms.join(), size.width, blind.value, run.value]} state={(i) => (active?.group === groups[i] ? `${active.play} ${i === here ? column : ""}` : i === here ? column : -1)} n={groups.length} height={size.height + 82} selected={here} label="Prompts and seeds; arrow keys move, space plays the row"
            head={!blind.value && <div class="columns" aria-hidden="true">{arms.map((arm) => <span key={arm} style={{ width: `${size.width}px` }}><Swatch arm={arm} />{arm}{arm === baseline.value && <small>baseline</small>}</span>)}</div>}
            row={(i, style) => {
              const g = groups[i];
              return (
                <Row key={g} group={g} cells={cells(g)} size={size} style={style} clock={clock} active={active?.group === g ? active : null} selected={i === here ? column : -1}
                  onSelect={(c) => (setAt(i), setColumn(c))} onActivate={(play) => (setAt(i), setActive({ group: g, play }))} />
              );
            }} />
        )}
      </div>
      {wiping && <Wipe {...wiping} onClose={() => setWiping(null)} />}
    </>
  );
}

const labelOf = (key) => measures.value.find((m) => m.key === key)?.label ?? "judge";

/** Width and height of a cell's picture, such that columns fit if they can. */
function sizeOf(width, n) {
  const cell = Math.max(140, Math.min(360, Math.floor((width - 40) / Math.max(1, n)) - 10));
  return { width: cell, height: Math.round(Math.max(70, Math.min(280, cell / aspect()))) };
}

/** Which arms are columns. */
function Columns() {
  const { names } = index.value;
  const there = new Set(columns.value);
  const flip = (name) => {
    const next = names.filter((n) => (n === name ? !there.has(n) : there.has(n)));
    const first = next.includes(baseline.value) ? [baseline.value] : [];
    choose({ cols: [...new Set([...first, ...next])].join(",") });
  };
  if (names.length < 2) return null;
  return (
    <details class="field menu">
      <summary>columns: {there.size} of {names.length}</summary>
      <div class="menu-box">
        {names.map((name) => <label key={name}><input type="checkbox" checked={there.has(name)} onChange={() => flip(name)} /><Swatch arm={name} />{name}</label>)}
        <a href={address({ cols: "" })}>as at first</a>
      </div>
    </details>
  );
}
