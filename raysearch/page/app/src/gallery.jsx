// The gallery: a row for each prompt and seed, a column for each arm.
import { useEffect, useMemo, useState } from "preact/hooks";
import { blind, downloadVotes, newSeed, savedVotes, sides, vote, votes } from "./blind.js";
import { Clock } from "./clock.js";
import { BaselineAndMeasure, Choice, Empty, Filters, Swatch } from "./controls.jsx";
import { useKeys } from "./keys.jsx";
import { aspect, coarse, fps, media, still } from "./media.js";
import { columns, judged, ordered, SORTS } from "./order.js";
import { Row } from "./row.jsx";
import { address, baseline, choose, groupId, index, measures, oneOf, run, say, view } from "./state.js";
import { VirtualList } from "./virtual.jsx";
import { useWidth } from "./width.js";
import { Wipe } from "./wipe.jsx";

const TALL = 340; // pixels of a picture at most, so that two rows are in sight

export function Gallery() {
  const [box, width] = useWidth(1200);
  const clock = useMemo(() => new Clock(fps()), []);
  const [at, setAt] = useState({ place: 0, id: "" }); // the id goes before the place, which changes as a run goes on
  const [column, setColumn] = useState(0);
  const [active, setActive] = useState(null); // {id, play}
  const [wiping, setWiping] = useState(null);
  const groups = ordered.value;
  const arms = columns.value;
  const size = sizeOf(width, arms.length);
  const here = placeOf(groups, at);
  const group = groups[here];
  const id = group === undefined ? "" : groupId(group);
  const select = (place) => setAt({ place, id: groupId(groups[place]) });
  const activate = (place, play) => (select(place), setActive({ id: groupId(groups[place]), play }));
  useEffect(() => setActive(null), [view.value.sort, arms.join(), blind.value]);

  const cells = (g) => sides(arms, g).map((arm) => ({ arm, row: index.value.groups[g][index.value.at.get(arm)] }));
  const go = (rows, cols) => {
    if (groups.length) select(Math.min(groups.length - 1, Math.max(0, here + rows)));
    setColumn(Math.min(arms.length - 1, Math.max(0, column + cols)));
  };
  const now = () => cells(group)[column];
  const playing = active && active.id === id;
  const needsActive = (act) => () => (playing ? act() : group !== undefined && activate(here, false));
  const wipe = () => {
    const there = cells(group);
    const films = there.map((c, i) => [c, i]).filter(([c]) => media(c.row, "video") && !still(media(c.row, "video"))).map(([, i]) => i);
    // Where it is blind, the partner must not tell which is the baseline.
    const base = blind.value ? -1 : there.findIndex((c) => c.arm === baseline.value);
    const first = films.includes(column) ? column : films[0];
    const second = films.includes(base) && base !== first ? base : films.find((i) => i !== first);
    if (second === undefined) return say("A wipe needs two videos in the row");
    clock.pause();
    return setWiping({ cells: there, left: Math.min(first, second), right: Math.max(first, second), title: run.value.searches.text("prompt", there[first].row) });
  };
  const ballot = (e) => {
    const there = group === undefined ? [] : cells(group);
    const i = Number(e.key) - 1;
    if (group === undefined || i >= there.length) return;
    vote(group, there.map((c) => c.arm), i < 0 ? "tie" : there[i].arm);
    if (here < groups.length - 1) {
      select(here + 1);
      if (playing) activate(here + 1, clock.playing.value);
    }
  };
  const save = () => (downloadVotes(), savedVotes());
  useKeys("Gallery", [
    ["ArrowDown", "The next row", () => go(1, 0)],
    ["ArrowUp", "The row before", () => go(-1, 0)],
    ["ArrowRight", "The next video of the row", () => go(0, 1)],
    ["ArrowLeft", "The one before", () => go(0, -1)],
    [" ", "Play or pause the row on one clock", () => (playing ? clock.toggle() : group !== undefined && activate(here, true))],
    [",", "A frame back", needsActive(() => clock.step(-1))],
    [".", "A frame on", needsActive(() => clock.step(1))],
    ["-", "Slower", () => clock.setSpeed(clock.speed.value / 2)],
    [["+", "="], "Faster", () => clock.setSpeed(clock.speed.value * 2)],
    ["w", blind.value ? "Wipe the selected video over another" : "Wipe the selected video over the baseline's", () => group !== undefined && wipe()],
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
        {!blind.value && <Choice label="sort" value={oneOf(SORTS, view.value.sort, "gain")} options={Object.entries(SORTS).map(([k, [text, title]]) => [k, text, title])} onChange={(sort) => choose({ sort })} />}
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
          <VirtualList class="rows" deps={[groups, arms.join(), size.width, blind.value, run.value]} state={(i) => (active?.id === groupId(groups[i]) ? `${active.play} ${i === here ? column : ""}` : i === here ? column : -1)} n={groups.length} height={size.height + 82} selected={here} label="Prompts and seeds; arrow keys move, space plays the row"
            head={!blind.value && <div class="columns" aria-hidden="true">{arms.map((arm) => <span key={arm} style={{ width: `${size.width}px` }}><Swatch arm={arm} />{arm}{arm === baseline.value && <small>baseline</small>}</span>)}</div>}
            row={(i, style) => {
              const g = groups[i];
              const own = groupId(g);
              return (
                <Row key={own} id={own} cells={cells(g)} size={size} style={style} clock={clock} active={active?.id === own ? active : null} selected={i === here ? column : -1}
                  onSelect={(c) => (select(i), setColumn(c))} onActivate={(play) => activate(i, play)} />
              );
            }} />
        )}
      </div>
      {wiping && <Wipe {...wiping} onClose={() => setWiping(null)} />}
    </>
  );
}

const labelOf = (key) => measures.value.find((m) => m.key === key)?.label ?? "judge";

/** Where the selected group is now; where none is selected, or it is gone, the same place as before. */
function placeOf(groups, { place, id }) {
  const there = Math.min(place, groups.length - 1);
  if (!id || (there >= 0 && groupId(groups[there]) === id)) return there;
  const now = groups.findIndex((g) => groupId(g) === id);
  return now >= 0 ? now : there;
}

/** Width and height of a cell's picture, such that columns fit if they can. */
function sizeOf(width, n) {
  const cell = Math.max(140, Math.min(TALL * aspect(), Math.floor((width - 40) / Math.max(1, n)) - 10));
  return { width: Math.floor(cell), height: Math.round(Math.max(70, Math.min(TALL, cell / aspect()))) };
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
