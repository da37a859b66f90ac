// What is known of one candidate: how it was made, what it scored, how it looked, and how to make it again.
import { useEffect, useState } from "preact/hooks";
import { count, number } from "./format.js";
import { useKeys } from "./keys.jsx";
import { media } from "./media.js";
import { copy, run } from "./state.js";

const quoted = (text) => (/^[\w./:=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The command that makes a candidate's video again. */
function command(id) {
  const { run: r } = run.value.manifest;
  return `raysearch render ${quoted(r.dir ?? r.name)} --candidate ${id}`;
}

export function Candidate({ found, row, search, pinned }) {
  const { table, winner } = found;
  const { components } = run.value.manifest;
  const id = table.text("candidate", row);
  const recipe = () => {
    const parent = table.number("parent_row", row);
    const origin = JSON.parse(table.text("origin", row) || "{}");
    const whole = { ...(parent >= 0 ? { parent: table.text("candidate", parent) } : {}), ...origin, step: table.number("step", row), candidate: id };
    return JSON.stringify({ kind: table.text("kind", row), ...whole });
  };
  const copyRecipe = () => copy(recipe(), "the recipe");
  const copyCommand = () => copy(command(id), "the command");
  useKeys("Candidate", [["c", "Copy its recipe", copyRecipe], ["r", "Copy the command that renders it", copyCommand]]);
  const value = (name) => table.number(name, row);
  const steps = value("num_steps");
  const facts = [
    ["came from", table.text("kind", row)],
    ["step", `${count(value("step"))}${steps >= 0 ? ` of ${count(steps)}` : ""}, sigma ${number(value("sigma"))}`],
    ["NFE", `${count(value("nfe"))}${value("nfe_after") >= 0 ? `; the search so far ${count(value("nfe_after"))}` : ""}`],
    ["asked", `${number(value("asked_s"))} s into the search${value("call") >= 0 ? `, question ${count(value("call") + 1)}` : ""}`],
    ["took", `${number(value("making_s"))} s to make, ${number(value("scoring_s"))} s to score`],
  ];
  const scored = Number.isFinite(value("reward"));
  return (
    <aside class="candidate card" aria-live="polite">
      <header><h3><span class="id">{id}</span>{row === winner && <b class="accent"> winner</b>}{!pinned && <small class="soft"> click to keep</small>}</h3></header>
      <Preview key={search} found={found} row={row} search={search} />
      <p class="reward">{scored ? number(value("reward"), 3) : "not scored"}{table.text("by", row) === "early" && <small> early reward</small>}</p>
      <dl>
        {(components ?? []).filter((name) => table.has(name) && Number.isFinite(value(name))).map((name) => <div key={name}><dt>{name}</dt><dd>{number(value(name), 3)}</dd></div>)}
        {facts.filter(([, text]) => text && !/^\u2013 s/.test(text)).map(([name, text]) => <div key={name}><dt>{name}</dt><dd>{text}</dd></div>)}
      </dl>
      <div class="actions">
        <button type="button" onClick={copyRecipe} title={recipe()}>Copy recipe <kbd>c</kbd></button>
        <button type="button" onClick={copyCommand} title={command(id)}>Copy render command <kbd>r</kbd></button>
      </div>
      {row === winner && media(search, "video") && <a href={media(search, "video")} target="_blank" rel="noreferrer">The winner's video</a>}
    </aside>
  );
}

/** A candidate's row of the sprite of its search: frames from the beginning, the middle and the end. */
function Preview({ found, row, search }) {
  const src = media(search, "preview");
  const [size, setSize] = useState(null);
  const cells = cellsOf(found);
  useEffect(() => {
    setSize(null);
    if (!src || !cells) return undefined;
    const image = new Image();
    image.onload = () => setSize({ width: image.naturalWidth, height: image.naturalHeight / cells });
    image.src = src;
    return () => (image.onload = null);
  }, [src, cells]);
  const at = found.table.number("preview", row);
  if (!src || !cells) return null;
  if (!(at >= 0)) return <p class="preview none soft">no preview of this one</p>;
  const shape = size ? `${size.width} / ${size.height}` : "16 / 3";
  return (
    <div class="preview" role="img" aria-label="Frames of its preview" style={{
      aspectRatio: shape, imageRendering: size?.width < 400 ? "pixelated" : undefined, backgroundImage: size ? `url("${src}")` : "none", backgroundSize: `100% ${cells * 100}%`,
      backgroundPosition: `0 ${cells > 1 ? (100 * at) / (cells - 1) : 0}%`,
    }} />
  );
}

const cells = new WeakMap();

/** How many rows the sprite of a search has. */
function cellsOf(found) {
  if (!cells.has(found)) {
    const at = found.table.column("preview");
    let most = -1;
    if (at) for (let i = found.start; i < found.end; i++) most = Math.max(most, at[i]);
    cells.set(found, most + 1);
  }
  return cells.get(found);
}
