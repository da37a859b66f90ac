// The page: a header, five screens, and what is shared by them.
import { effect } from "@preact/signals";
import { render } from "preact";
import { useErrorBoundary } from "preact/hooks";
import { Costs } from "./costs.jsx";
import { read, refreshed } from "./data.js";
import { Failures } from "./failures.jsx";
import { compact, count, duration } from "./format.js";
import { Gallery } from "./gallery.jsx";
import { Help, helping, listenToKeys, useKeys } from "./keys.jsx";
import { Overview } from "./overview.jsx";
import { address, choose, listen, run, say, SCREENS, toast, view } from "./state.js";
import { Tree } from "./tree.jsx";

const SHOWN = { overview: Overview, gallery: Gallery, tree: Tree, costs: Costs, failures: Failures };
const TITLES = { overview: "Overview", gallery: "Gallery", tree: "Search tree", costs: "Costs", failures: "Failures" };

function Header() {
  const { run: r, live } = run.value.manifest;
  const alone = r.nfe_spent !== null && r.nfe_spent !== r.nfe;
  return (
    <header class="top">
      <div class="title">
        <h1>{r.name}</h1>
        {r.state && <span class={`state ${r.state}`} title={r.reason || undefined}>{r.state}</span>}
        {live && <span class="live" title={`looked at every ${live.refresh_s} s`}>live</span>}
      </div>
      <p class="facts">
        {Number.isFinite(r.elapsed) && <span>{duration(r.elapsed)}{r.left > 0 && <> and about {duration(r.left)} left</>}</span>}
        <span><b>{count(r.done)}</b>{r.searches > r.done && <> of {count(r.searches)}</>} searches</span>
        {r.failed > 0 && <a href={address({ screen: "failures" })} class="bad">{count(r.failed)} failed</a>}
        <span title="Evaluations of the model: those that were run, and those that the searches would have needed alone">
          NFE <b>{compact(alone ? r.nfe_spent : r.nfe)}</b> run{alone && <> / <b>{compact(r.nfe)}</b> alone</>}
        </span>
        {r.replica_seconds > 0 && <span title="Seconds of replicas, as charged to the searches">{compact(r.replica_seconds / 3600 >= 1 ? r.replica_seconds / 3600 : r.replica_seconds)} replica-{r.replica_seconds / 3600 >= 1 ? "hours" : "seconds"}</span>}
      </p>
      <nav aria-label="Screens">
        {SCREENS.map((name, i) => (
          <a key={name} href={address({ screen: name })} aria-current={view.value.screen === name ? "page" : undefined} title={`key ${i + 1}`}>
            {TITLES[name]}
            {name === "failures" && r.failed > 0 && <span class="badge">{count(r.failed)}</span>}
          </a>
        ))}
        <button type="button" class="quiet" aria-label="Keys" title="Keys (?)" onClick={() => (helping.value = true)}>?</button>
      </nav>
    </header>
  );
}

function Page() {
  const [error, reset] = useErrorBoundary((e) => console.error(e));
  useKeys("Everywhere", [
    ...SCREENS.map((name, i) => [String(i + 1), TITLES[name], () => choose({ screen: name })]),
    ["/", "Filter by the prompt's text", () => document.querySelector("#prompt-filter")?.focus()],
    ["?", "Show or hide the keys", () => (helping.value = !helping.value)],
  ], { last: true });
  const Screen = SHOWN[view.value.screen];
  return (
    <>
      <Header />
      <main key={view.value.screen} class={view.value.screen}>
        {error ? <p class="empty">This screen failed: {String(error.message ?? error)}. <button type="button" onClick={reset}>Try again</button></p> : <Screen />}
      </main>
      <Help />
      <div class="toast" role="status" aria-live="polite">{toast.value}</div>
    </>
  );
}

async function follow(live) {
  try {
    const newer = await refreshed();
    if (newer) run.value = newer;
    follow.failed = false;
  } catch {
    if (!follow.failed) say("The server does not answer: this is the state of before");
    follow.failed = true;
  }
  const state = run.value.manifest.live;
  if (state) setTimeout(follow, 1000 * (state.refresh_s ?? live?.refresh_s ?? 2));
}

async function start() {
  const app = document.getElementById("app");
  try {
    run.value = await read();
  } catch (error) {
    app.textContent = `This page holds no data that it can read (${error.message}). Write it with: raysearch report RUN_DIR`;
    return;
  }
  listen();
  listenToKeys();
  effect(() => (document.title = `${run.value.manifest.run.name} \u2013 raysearch`));
  app.textContent = "";
  render(<Page />, app);
  // Two frames later everything has been drawn once.
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("raysearch-drawn")));
  if (run.value.manifest.live) setTimeout(follow, 1000 * run.value.manifest.live.refresh_s);
}

start();
