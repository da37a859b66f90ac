// A search's tree on a canvas.
import { prepared, theme } from "./canvas.js";
import { viridis } from "./format.js";

/** `shape` is what layout.place returned; `look` is {colour, winner, path, selected, hover, transform, axis}. */
export function draw(canvas, width, height, shape, look) {
  const c = prepared(canvas, width, height);
  const t = theme();
  const { k, x: tx, y: ty } = look.transform;
  const px = (x) => x * k + tx;
  const py = (y) => y * k + ty;
  const seen = (y) => y > -40 && y < height + 40;
  c.font = "11px system-ui, sans-serif";
  // Panels and the axis stay at the top while the tree moves below them.
  for (const tick of shape.ticks) {
    c.strokeStyle = t.line;
    c.beginPath(); c.moveTo(px(tick.x), shape.top - 6); c.lineTo(px(tick.x), height); c.stroke();
  }
  c.lineWidth = 1.4;
  c.lineJoin = "round";
  for (const strong of [false, true]) {
    for (const edge of shape.edges) {
      const onPath = edge.to.row !== undefined && look.path.has(edge.to.row) && (edge.from.row === undefined || look.path.has(edge.from.row));
      if (onPath !== strong) continue;
      const [y0, y1] = [py(edge.from.y), py(edge.to.y)];
      if (!seen(y0) && !seen(y1) && (y0 < 0) === (y1 < 0)) continue;
      c.strokeStyle = strong ? t.accent : t.strong;
      c.lineWidth = strong ? 2.6 : 1.2;
      line(c, edge, px(edge.from.x), y0, px(edge.to.x), y1);
    }
  }
  c.setLineDash([]);
  const r = Math.max(2.2, Math.min(5.5, (shape.lane * k) / 3));
  for (const node of shape.nodes.values()) {
    const y = py(node.y);
    if (!seen(y)) continue;
    mark(c, node, px(node.x), y, r, look, t);
  }
  for (const row of [look.hover, look.selected]) {
    const node = shape.nodes.get(row);
    if (!node) continue;
    c.strokeStyle = t.ink;
    c.lineWidth = row === look.selected ? 2 : 1;
    c.beginPath(); c.arc(px(node.x), py(node.y), r + 4, 0, 7); c.stroke();
  }
  header(c, width, shape, px, look, t);
}

function line(c, edge, x0, y0, x1, y1) {
  c.setLineDash({ perturb: [5, 4], neighbour: [5, 4], jitter: [5, 4], push: [2, 3], start: [] }[edge.kind] ?? []);
  c.beginPath();
  c.moveTo(x0, y0);
  if (edge.kind === "line" || edge.kind === "start") c.lineTo(x1, y1);
  else if (edge.kind === "renoise") c.bezierCurveTo(x0 + 8, (y0 + y1) / 2, x1 - 26, (y0 + y1) / 2, x1, y1);
  else {
    const bend = Math.min(24, Math.abs(x1 - x0) / 2 || 10);
    c.bezierCurveTo(x0 + bend, y0, x0 + (x1 > x0 ? 0 : bend), y1, x1, y1);
  }
  c.stroke();
}

function mark(c, node, x, y, r, look, t) {
  const { row, line } = node;
  const last = node.k === line.nodes.length - 1;
  const value = look.colour(row);
  if (line.folded) {
    c.fillStyle = t.soft;
    c.fillText(`\u00d7 ${line.folded.n}`, x + r + 6, y + 4);
    c.fillStyle = t.card;
    c.strokeStyle = t.strong;
    c.lineWidth = 1.2;
    c.beginPath(); c.rect(x - r, y - r, 2 * r, 2 * r); c.fill(); c.stroke();
    return;
  }
  const pruned = last && row !== look.winner && !look.kept(row) && !line.children;
  c.lineWidth = 1.4;
  c.beginPath();
  if (value === null) {
    c.arc(x, y, r - 0.5, 0, 7);
    c.fillStyle = t.card; c.fill();
    c.strokeStyle = t.soft; c.stroke();
  } else if (pruned && r > 2.6) {
    c.strokeStyle = viridis(value);
    c.lineWidth = 2.2;
    c.moveTo(x - r * 0.8, y - r * 0.8); c.lineTo(x + r * 0.8, y + r * 0.8);
    c.moveTo(x + r * 0.8, y - r * 0.8); c.lineTo(x - r * 0.8, y + r * 0.8);
    c.stroke();
  } else {
    c.arc(x, y, r, 0, 7);
    c.fillStyle = viridis(value); c.fill();
  }
  if (row === look.winner) {
    c.strokeStyle = t.accent;
    c.lineWidth = 2.4;
    c.beginPath(); c.arc(x, y, r + 3.5, 0, 7); c.stroke();
    c.fillStyle = t.accent;
    c.textAlign = "right";
    c.fillText("winner", x - r - 9, y - 7);
    c.textAlign = "left";
  }
}

function header(c, width, shape, px, look, t) {
  c.fillStyle = t.card;
  c.fillRect(0, 0, width, shape.top - 8);
  c.fillStyle = t.soft;
  c.textAlign = "center";
  let last = -Infinity;
  for (const tick of shape.ticks) {
    if (px(tick.x) - last < 34) continue;
    last = px(tick.x);
    c.fillText(tick.text, last, shape.top - 12);
  }
  c.textAlign = "left";
  if (shape.parts.length > 1) for (const p of shape.parts) c.fillText(`chunk ${p.part + 1}`, px(p.x), 10);
}

