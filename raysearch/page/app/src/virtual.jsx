// A list that holds only the rows that are seen, and a few beside them.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

/**
 * `n` rows of `height` pixels; `row(i, style)` makes row i. The row `selected` is kept in sight. With `recycle` the
 * elements of rows that leave are changed into those that come: `row(i, style, key)` then gets the key of its element.
 * A row is made again only if one of `deps`, or what `state(i)` says of it, is another than before.
 */
export function VirtualList({ n, height, row, selected, label, head, recycle, deps, state, class: name, role = "list" }) {
  const box = useRef(null);
  const [range, setRange] = useState([0, 20]);
  const look = () => {
    if (!box.current) return;
    const { scrollTop, clientHeight } = box.current;
    const size = Math.ceil(clientHeight / height) + 4;
    const from = Math.max(0, Math.min(Math.floor(scrollTop / height) - 2, n - size));
    const to = Math.min(n, from + size);
    setRange((old) => (old[0] === from && old[1] === to ? old : [from, to]));
  };
  useLayoutEffect(look, [n, height]);
  useEffect(() => {
    const watch = new ResizeObserver(look);
    watch.observe(box.current);
    return () => watch.disconnect();
  }, [n, height]);
  useEffect(() => {
    if (!(selected >= 0)) return;
    const { scrollTop, clientHeight } = box.current;
    const [above, below] = [selected * height, (selected + 1) * height];
    if (above < scrollTop) box.current.scrollTop = above;
    else if (below > scrollTop + clientHeight) box.current.scrollTop = below - clientHeight + 8;
  }, [selected, height]);
  const slots = Math.max(1, range[1] - range[0]);
  const made = useMemo(() => new Map(), [...deps, height, slots]);
  if (made.size > 4 * slots) for (const i of made.keys()) if (i < range[0] || i >= range[1]) made.delete(i);
  const rows = [];
  for (let i = range[0]; i < Math.min(range[1], n); i++) {
    const at = recycle ? i % slots : rows.length;
    const kept = made.get(i);
    const now = state(i);
    if (kept && kept.state === now) {
      rows[at] = kept.element;
      continue;
    }
    rows[at] = row(i, { position: "absolute", top: `${i * height}px`, height: `${height}px`, left: 0, right: 0 }, at);
    made.set(i, { state: now, element: rows[at] });
  }
  return (
    <div class={`virtual ${name ?? ""}`} ref={box} onScroll={look} tabIndex={0} role={role} aria-label={label} aria-rowcount={n}>
      {head}
      <div class="virtual-rows" style={{ height: `${n * height}px` }}>{rows}</div>
    </div>
  );
}
