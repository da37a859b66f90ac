// The canvas of the tree: zoom, pan, the pointer, and the keys that walk along the lineage.
import { quadtree } from "d3-quadtree";
import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { onTheme } from "./canvas.js";
import { draw } from "./drawing.js";
import { useKeys } from "./keys.jsx";
import { folded, place } from "./layout.js";
import { useWidth } from "./width.js";

export function Drawing({ found, axis, order, part, colours, selected, onSelect, hover, onHover, onFold }) {
  const [box, width] = useWidth(900);
  const [room, setRoom] = useState(520);
  const canvas = useRef(null);
  const zoomer = useRef(null);
  const transform = useRef(zoomIdentity);
  const [open, setOpen] = useState(new Set());
  useLayoutEffect(() => {
    const fit = () => setRoom(Math.max(320, innerHeight - canvas.current.getBoundingClientRect().top - scrollY - 60));
    fit();
    addEventListener("resize", fit);
    return () => removeEventListener("resize", fit);
  }, []);
  const lines = useMemo(() => folded(found.lines, found.end - found.start, open), [found, open]);
  const height = Math.min(room, Math.max(280, lines.length * 30 + 70));
  const shape = useMemo(() => place(found, lines, { axis, order, part, width, height }), [found, lines, axis, order, part, width, height]);
  const tree = useMemo(() => quadtree([...shape.nodes.values()], (d) => d.x, (d) => d.y), [shape]);
  const kept = found.table.column("kept");
  const redraw = () => canvas.current && draw(canvas.current, width, height, shape, {
    colour: colours.of, winner: found.winner, path: found.path, selected, hover, transform: transform.current, kept: (row) => !kept || kept[row] === 1,
  });
  const latest = useRef(redraw);
  latest.current = redraw;
  useEffect(redraw);
  useEffect(() => onTheme(() => latest.current()), []);
  useEffect(() => {
    let frame = 0;
    zoomer.current = zoom().scaleExtent([0.2, 40]).on("zoom", (e) => {
      transform.current = e.transform;
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => latest.current());
    });
    select(canvas.current).call(zoomer.current).on("dblclick.zoom", null);
    return () => (cancelAnimationFrame(frame), select(canvas.current).on(".zoom", null));
  }, []);
  useEffect(() => {
    zoomer.current.extent([[0, 0], [width, height]]).translateExtent([[-width, -60], [2 * width, Math.max(height, shape.height) + 60]]);
    zoomer.current.transform(select(canvas.current), zoomIdentity);
    const winner = shape.nodes.get(found.winner);
    if (winner && winner.y > height - 30) zoomer.current.translateTo(select(canvas.current), width / 2, winner.y);
    onFold(shape.rows.reduce((n, line) => n + (line.folded ? line.folded.n : 0), 0));
  }, [shape]);
  const at = (e) => {
    const [x, y] = transform.current.invert([e.offsetX, e.offsetY]);
    return tree.find(x, y, 16 / transform.current.k)?.row ?? -1;
  };
  const unfold = (row) => {
    const { folded: stub } = shape.nodes.get(row)?.line ?? {};
    if (stub) setOpen(new Set(open).add(stub.key));
    return Boolean(stub);
  };
  const reveal = (row) => {
    onHover(-1);
    onSelect(row);
    const node = shape.nodes.get(row);
    const [x, y] = transform.current.apply([node.x, node.y]);
    if (x < 20 || x > width - 20 || y < shape.top + 10 || y > height - 20) zoomer.current.translateTo(select(canvas.current), node.x, node.y);
  };
  const walk = (dx, dy) => {
    const node = shape.nodes.get(selected) ?? shape.nodes.values().next().value;
    if (!node) return;
    const { line, k, lane } = node;
    if (dx > 0) {
      const child = line.nodes[k + 1] ?? shape.rows.find((l) => l.parent === node.row)?.nodes[0];
      if (child !== undefined) reveal(child);
    } else if (dx < 0) {
      const before = k > 0 ? line.nodes[k - 1] : line.parent;
      if (shape.nodes.has(before)) reveal(before);
    } else {
      const next = shape.rows[lane + dy];
      if (!next) return;
      const near = next.nodes.map((row) => shape.nodes.get(row)).reduce((a, b) => (Math.abs(b.x - node.x) < Math.abs(a.x - node.x) ? b : a));
      reveal(near.row);
    }
  };
  const scaleBy = (factor) => zoomer.current.scaleBy(select(canvas.current), factor);
  useKeys("Tree", [
    ["ArrowRight", "On along the trajectory, or to a child", () => walk(1, 0)],
    ["ArrowLeft", "Back along it, or to the parent", () => walk(-1, 0)],
    ["ArrowDown", "The trajectory below", () => walk(0, 1)],
    ["ArrowUp", "The trajectory above", () => walk(0, -1)],
    ["Home", "The winner", () => shape.nodes.has(found.winner) && reveal(found.winner)],
    ["Enter", "Unfold a stub", () => unfold(selected)],
    [["+", "="], "Zoom in", () => scaleBy(1.5)],
    ["-", "Zoom out", () => scaleBy(1 / 1.5)],
    ["f", "The whole tree", () => zoomer.current.transform(select(canvas.current), zoomIdentity)],
  ]);
  return (
    <div class="drawing" ref={box}>
      <canvas ref={canvas} tabIndex={0} role="application" aria-label="The search's tree; arrow keys walk along it, and the candidate is described beside it"
        onMouseMove={(e) => { const row = at(e); if (row !== hover) onHover(row); }} onMouseLeave={() => onHover(-1)}
        onClick={(e) => { const row = at(e); if (row >= 0 && !unfold(row)) onSelect(row); }}
        onDblClick={() => zoomer.current.transform(select(canvas.current), zoomIdentity)} style={{ cursor: hover >= 0 ? "pointer" : "grab" }} />
    </div>
  );
}
