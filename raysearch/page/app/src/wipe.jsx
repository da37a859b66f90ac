// Two videos over each other with a line between them that moves.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { blind, letter } from "./blind.js";
import { Clock } from "./clock.js";
import { useKeys } from "./keys.jsx";
import { aspect, fps, media } from "./media.js";
import { Controls } from "./row.jsx";

/** `cells` are those of a row with a video; `left` and `right` are places among them. */
export function Wipe({ cells, left, right, title, onClose }) {
  const box = useRef(null);
  const clock = useMemo(() => new Clock(fps()), []);
  const [line, setLine] = useState(50);
  const [pair, setPair] = useState([left, right]);
  useEffect(() => {
    box.current.focus();
  }, []);
  useEffect(() => {
    clock.take([...box.current.querySelectorAll("video")]).then((there) => there && clock.play());
    return () => clock.release();
  }, [pair]);
  const name = (i) => (blind.value ? letter(i) : cells[i].arm);
  const other = (by) => {
    for (let i = pair[1] + by; i !== pair[1]; i += by) {
      const at = (i + cells.length) % cells.length;
      if (at !== pair[0] && media(cells[at].row, "video")) return setPair([pair[0], at]);
      if (Math.abs(i) > 2 * cells.length) return undefined;
    }
    return undefined;
  };
  useKeys("Wipe", [
    [["Escape", "w"], "Close the wipe", onClose],
    ["ArrowLeft", "Move the line to the left", () => setLine((x) => Math.max(0, x - 2))],
    ["ArrowRight", "Move the line to the right", () => setLine((x) => Math.min(100, x + 2))],
    ["ArrowDown", "The next video on the right side", () => other(1)],
    ["ArrowUp", "The one before", () => other(-1)],
    [" ", "Play or pause both", () => clock.toggle()],
    [",", "A frame back", () => clock.step(-1)],
    [".", "A frame on", () => clock.step(1)],
  ]);
  const slide = (e) => {
    const { left: x, width } = e.currentTarget.getBoundingClientRect();
    setLine(Math.min(100, Math.max(0, (100 * (e.clientX - x)) / width)));
  };
  return (
    <div class="veil" onClick={onClose}>
      <div class="dialog wipe" role="dialog" aria-modal="true" aria-label={`${name(pair[0])} over ${name(pair[1])}`} tabIndex={-1} ref={box} onClick={(e) => e.stopPropagation()}>
        <header><h2>{name(pair[0])} | {name(pair[1])} <small>{title}</small></h2><button type="button" class="quiet" onClick={onClose}>Close</button></header>
        <div class="stage" style={{ aspectRatio: aspect() }} onPointerMove={slide}>
          <video key={`r${pair[1]}`} src={media(cells[pair[1]].row, "video")} preload="none" muted playsInline />
          <video key={`l${pair[0]}`} src={media(cells[pair[0]].row, "video")} preload="none" muted playsInline style={{ clipPath: `inset(0 ${100 - line}% 0 0)` }} />
          <i class="line" style={{ left: `${line}%` }} />
          <b class="letter">{name(pair[0])}</b>
          <b class="letter right">{name(pair[1])}</b>
        </div>
        <Controls clock={clock} />
      </div>
    </div>
  );
}
