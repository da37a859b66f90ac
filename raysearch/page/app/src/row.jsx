// A row of the gallery: the videos of one prompt and seed, side by side on one clock.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { blind, letter, votes } from "./blind.js";
import { Swatch } from "./controls.jsx";
import { number, signed } from "./format.js";
import { media, still } from "./media.js";
import { hacked, judged } from "./order.js";
import { gainOf, run, treeOf } from "./state.js";

const MOST = 15; // videos of a row that play; with the one under the pointer, 16 decode

/** `cells` are `{arm, row}` from left to right; `clock` plays the row if it is `active`. */
export function Row({ id, cells, size, style, active, selected, clock, onSelect, onActivate }) {
  const box = useRef(null);
  const drag = useRef(null);
  const { searches } = run.value;
  const any = cells.find((c) => c.row >= 0)?.row ?? -1;
  useEffect(() => {
    if (!active) return undefined;
    clock.take([...box.current.querySelectorAll("video")]).then((there) => there && active.play && clock.play());
    return () => clock.release();
  }, [active, id]);
  const down = (e) => {
    if (e.button !== 0 || e.target.closest("a, button")) return;
    drag.current = { x: e.clientX, moved: false };
  };
  const move = (e) => {
    const from = drag.current;
    if (!from || (!from.moved && Math.abs(e.clientX - from.x) < 5)) return;
    if (!from.moved) {
      from.moved = true;
      e.currentTarget.setPointerCapture(e.pointerId);
      if (!active) onActivate(false);
      else clock.pause();
      from.time = active ? clock.time.value : 0;
    }
    clock.seek(from.time + ((e.clientX - from.x) / (size.width * 1.5)) * (clock.duration.value || 1));
  };
  const up = () => (drag.current = null);
  const voted = votes.value.get(id);
  return (
    <section class={`row ${selected >= 0 ? "selected" : ""}`} style={style} ref={box} data-group={id} aria-label={`${searches.text("prompt", any)}, seed ${searches.text("seed", any)}`}>
      <header>
        <h3 title={searches.text("prompt", any)}>{searches.text("prompt", any)}</h3>
        <span class="soft">seed {searches.text("seed", any)}</span>
        {blind.value > 0 && voted && <span class="voted">voted {voted.winner === "tie" ? "tie" : letter(voted.shown.indexOf(voted.winner))}</span>}
        {active ? <Controls clock={clock} /> : <button type="button" class="quiet play" tabIndex={-1} onClick={() => onActivate(true)}>{"\u25b6"} play the row</button>}
      </header>
      <div class="cells" onPointerDown={down} onPointerMove={move} onPointerUp={up} onPointerCancel={up}>
        {cells.map((cell, i) => (
          <Cell key={cell.arm} {...cell} size={size} i={i} active={active && i < MOST} selected={selected === i} onSelect={() => onSelect(i)} />
        ))}
      </div>
    </section>
  );
}

function Cell({ arm, row, size, i, active, selected, onSelect }) {
  const { searches } = run.value;
  const over = useSignal(false);
  const video = media(row, "video");
  const poster = media(row, "poster");
  const own = searches.number("reward_search", row);
  const other = searches.number(judged.value, row);
  const status = searches.text("status", row);
  const moving = video && !still(video);
  const plays = moving && (active || over.value);
  const hidden = blind.value > 0;
  return (
    <div class={`cell ${selected ? "selected" : ""}`} style={{ width: `${size.width}px` }} onClick={onSelect}
      onMouseEnter={() => (over.value = true)} onMouseLeave={() => (over.value = false)}>
      <div class="frame" style={{ height: `${size.height}px` }}>
        {still(video) ? <img src={video} loading="lazy" decoding="async" draggable={false} alt="" />
          : poster ? <img src={poster} loading="lazy" decoding="async" draggable={false} alt="" />
          : !moving && <span class="nothing">{row < 0 ? "not run" : status === "failed" ? "failed" : "no video"}</span>}
        {plays && (active ? <video key="row" src={video} poster={poster || undefined} preload="none" muted playsInline /> : <Hovered key="one" src={video} />)}
        {moving && !poster && !plays && <span class="nothing">{"\u25b6"}</span>}
        {hidden ? <b class="letter">{letter(i)}</b> : video && (
          <a class="original" href={video} target="_blank" rel="noreferrer" title="The original video (o)" tabIndex={-1}>{"\u2197"}</a>
        )}
      </div>
      {hidden ? <p class="numbers soft">press {i + 1}</p> : (
        <p class="numbers">
          <span title={`search reward ${number(own)}, judged ${number(other)}`}>{number(own)}<i>/</i>{number(other)}</span>
          {Number.isFinite(gainOf(row, judged.value)) && <b class={gainOf(row, judged.value) >= 0 ? "good" : "bad"}>{signed(gainOf(row, judged.value))}</b>}
          {hacked(row) && <span class="hacked" title="The search's own reward rose over the baseline's while the judge's fell">hacked</span>}
          {status === "failed" && <span class="bad">failed</span>}
          {row >= 0 && <a href={treeOf(searches.text("search_id", row))} tabIndex={-1} title="The tree of this search (Enter)">tree</a>}
        </p>
      )}
    </div>
  );
}

/** The one video under the pointer. */
function Hovered({ src }) {
  const video = useRef(null);
  useEffect(() => {
    const element = video.current;
    const soon = setTimeout(() => element.play().catch(() => {}), 120);
    return () => (clearTimeout(soon), element.pause(), element.removeAttribute("src"), element.load());
  }, []);
  return <video ref={video} src={src} preload="none" muted playsInline loop />;
}

export function Controls({ clock }) {
  const { playing, duration, speed, time } = clock;
  return (
    <div class="controls">
      <button type="button" aria-label={playing.value ? "Pause" : "Play"} onClick={() => clock.toggle()}>{playing.value ? "\u275a\u275a" : "\u25b6"}</button>
      <input type="range" aria-label="Moment" min="0" max={duration.value || 1} step={1 / clock.fps} value={time.value}
        onInput={(e) => (clock.pause(), clock.seek(Number(e.currentTarget.value)))} />
      <select aria-label="Speed" value={speed.value} onChange={(e) => clock.setSpeed(Number(e.currentTarget.value))}>
        {[0.25, 0.5, 1, 1.5, 2].map((s) => <option key={s} value={s}>{`\u00d7${s}`}</option>)}
      </select>
      <output class="frames">frame {clock.frame + 1}/{clock.frames}</output>
    </div>
  );
}
