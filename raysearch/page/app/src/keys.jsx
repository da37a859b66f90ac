// The keyboard: each part of the page says its keys, `?` lists them, and one listener obeys them.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

const groups = signal([]); // the latest comes first
export const helping = signal(false);

/** Keys of a part while it is shown: rows of [key or keys, what it does, function]. `last` are those that others go before. */
export function useKeys(title, rows, { last = false } = {}) {
  const latest = useRef(rows);
  latest.current = rows;
  useEffect(() => {
    const group = { title, rows: () => latest.current };
    groups.value = last ? [...groups.value, group] : [group, ...groups.value];
    return () => (groups.value = groups.value.filter((g) => g !== group));
  }, [title]);
}

const typing = (target) => target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]");

export function listenToKeys() {
  // A button that was clicked would keep the focus, and take Enter and space from what is selected.
  addEventListener("click", (event) => event.detail > 0 && event.target.closest("button, a, summary")?.blur());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (helping.value && event.key !== "?") {
      if (event.key === "Escape") helping.value = false;
      if (event.key === "Tab") (event.preventDefault(), document.querySelector(".help button")?.focus()); // it has one
      return;
    }
    if ((event.key === " " || event.key === "Enter") && event.target.closest("button, a, summary, input")) return;
    if (event.key.startsWith("Arrow") && event.target.closest("input[type=range], [role=tablist]")) return;
    for (const group of groups.value) {
      for (const [keys, , act] of group.rows()) {
        if (!act || ![].concat(keys).includes(event.key)) continue;
        event.preventDefault();
        act(event);
        return;
      }
    }
  });
}

const NAMES = { " ": "space", ArrowUp: "\u2191", ArrowDown: "\u2193", ArrowLeft: "\u2190", ArrowRight: "\u2192" };

export function Help() {
  const box = useRef(null);
  useEffect(() => {
    if (helping.value) box.current?.focus();
  }, [helping.value]);
  if (!helping.value) return null;
  return (
    <div class="veil" onClick={() => (helping.value = false)}>
      <div class="dialog help" role="dialog" aria-modal="true" aria-label="Keys" tabIndex={-1} ref={box} onClick={(e) => e.stopPropagation()}>
        <header>
          <h2>Keys</h2>
          <button type="button" class="quiet" onClick={() => (helping.value = false)}>Close</button>
        </header>
        <div class="help-columns">
          {groups.value.map((group) => (
            <section key={group.title}>
              <h3>{group.title}</h3>
              <dl>
                {group.rows().map(([keys, text]) => (
                  <div key={text}>
                    <dt>{[].concat(keys).map((k) => <kbd key={k}>{NAMES[k] ?? k}</kbd>)}</dt>
                    <dd>{text}</dd>
                  </div>
                ))}
              </dl>
            </section>
          ))}
        </div>
      </div>
    </div>
  );
}
