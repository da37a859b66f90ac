// Searches that failed, by reason, and how to go on.
import { useState } from "preact/hooks";
import { Empty, Swatch } from "./controls.jsx";
import { count } from "./format.js";
import { useKeys } from "./keys.jsx";
import { address, choose, copy, run } from "./state.js";

export function Failures() {
  const { failures, run: r } = run.value.manifest;
  const [at, setAt] = useState(0);
  const more = r.searches > r.done + r.failed;
  useKeys("Failures", [
    ["ArrowDown", "The next reason", () => setAt(Math.min(failures.length - 1, at + 1))],
    ["ArrowUp", "The one before", () => setAt(Math.max(0, at - 1))],
    ["Enter", "Its first search", () => failures[at] && choose({ screen: "tree", search: failures[at].first })],
    ["c", "Copy the command to go on", () => r.again && copy(r.again, "the command")],
  ]);
  return (
    <>
      {r.again && (failures.length > 0 || more) && (
        <section class="card go-on">
          <h2>To go on</h2>
          <p>{failures.length > 0 ? "Failed searches are tried again, and finished ones are kept." : "The searches that are left are run, and finished ones are kept."}</p>
          <Command text={r.again} />
        </section>
      )}
      {r.reason && <section class="card"><h2>The run itself</h2><p>{r.state}: {r.reason}</p></section>}
      {!failures.length ? <Empty>No search failed{r.done < r.searches ? " so far" : ""}.</Empty> : failures.map((f, i) => (
        <section class={`card failure ${i === at ? "selected" : ""}`} key={f.reason}>
          <header><h2><b class="bad">{count(f.n)}</b> {f.reason}</h2></header>
          {f.what && f.what !== f.reason && <details><summary>The whole reason of the first</summary><pre tabIndex={0}>{f.what}</pre></details>}
          <p class="by-arm">{Object.entries(f.arms).map(([arm, n]) => <span key={arm}><Swatch arm={arm} />{arm} {count(n)}</span>)}</p>
          <p>first: <a class="id" href={address({ screen: "tree", search: f.first })}>{f.first}</a> {" "}<a href={address({ screen: "gallery", status: "failed", sort: "failures" })}>in the gallery</a></p>
        </section>
      ))}
      {r.config && <section class="card"><details><summary>The run's config</summary><pre tabIndex={0}>{r.config}</pre></details></section>}
    </>
  );
}

function Command({ text }) {
  return <p class="command"><code>{text}</code><button type="button" onClick={() => copy(text, "the command")}>Copy</button></p>;
}
