// Bundles src/ into ../app.html, one file with its script and its style inside. The same sources give the same bytes.
// `--check` writes nothing and fails if the file is another one.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const { outputFiles } = await build({
  absWorkingDir: here("."),
  entryPoints: ["src/main.jsx", "src/style.css"],
  bundle: true,
  minify: true,
  write: false,
  outdir: "out",
  format: "iife",
  target: ["chrome105", "firefox113", "safari16.4"],
  charset: "ascii",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { "process.env.NODE_ENV": '"production"' },
});
const made = (end) => outputFiles.find((f) => f.path.endsWith(end)).text.trim();
const [script, style] = [made("main.js"), made("style.css")];
if (/<\/(script|style)|<!--|<head>|__MANIFEST__|__COLUMNS__/i.test(script + style)) throw new Error("the bundle holds a text of the template");

// Python fills in the data, and a policy that allows this script by its digest.
const page = readFileSync(here("src/shell.html"), "utf8")
  .replace("/*STYLE*/", () => style)
  .replace("/*SCRIPT*/", () => script);

const target = here("../app.html");
if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== page) {
    console.error("raysearch/page/app.html is not what its sources give: npm ci && npm run build");
    process.exit(1);
  }
} else {
  writeFileSync(target, page);
  console.log(`app.html: ${page.length} bytes, the script ${script.length}, the style ${style.length}`);
}
