// A list that holds only the rows that are seen, and a few beside them.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

/** `n` rows of `height` pixels; `row(i, style)` makes row i. The row `selected` is kept in sight. */
export function VirtualList({ n, height, row, selected, label, head, class: name, role = "list" }) {
  const box = useRef(null);
  const [range, setRange] = useState([0, 20]);
  const look = () => {
    const { scrollTop, clientHeight } = box.current;
    const from = Math.max(0, Math.floor(scrollTop / height) - 2);
    const to = Math.min(n, Math.ceil((scrollTop + clientHeight) / height) + 2);
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
  const rows = [];
  for (let i = range[0]; i < Math.min(range[1], n); i++) {
    rows.push(row(i, { position: "absolute", top: `${i * height}px`, height: `${height}px`, left: 0, right: 0 }));
  }
  return (
    <div class={`virtual ${name ?? ""}`} ref={box} onScroll={look} tabIndex={0} role={role} aria-label={label} aria-rowcount={n}>
      {head}
      <div class="virtual-rows" style={{ height: `${n * height}px` }}>{rows}</div>
    </div>
  );
}
