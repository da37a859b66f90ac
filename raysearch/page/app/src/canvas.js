/** A canvas's context, sized for the screen's pixels, cleared, with units of CSS pixels. */
export function prepared(canvas, width, height) {
  const dense = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Colours of the page's theme, for a canvas. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), strong: of("--line-strong"), card: of("--card"), accent: of("--accent"), bad: of("--bad") };
}

/** Call `draw` again when the theme becomes light or dark; returns what ends that. */
export function onTheme(draw) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  return () => dark.removeEventListener("change", draw);
}
