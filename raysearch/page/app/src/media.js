import { run } from "./state.js";

/** The URL of a search's video, poster or sprite: inside this page, beside it, or "". `kind` is a column. */
export function media(row, kind) {
  if (!(row >= 0)) return "";
  const { searches, manifest } = run.value;
  const inside = manifest.media.embedded?.[`${kind}s`]?.[searches.text("search_id", row)];
  return inside ?? (manifest.media.alone ? "" : searches.text(kind, row));
}

export const fps = () => run.value.manifest.media.fps || 16;
export const aspect = () => (run.value.manifest.media.width || 16) / (run.value.manifest.media.height || 9);
/** Small videos are shown pixel by pixel. */
export const coarse = () => (run.value.manifest.media.width || 1000) <= 128;
export const still = (url) => /\.(png|jpe?g|webp)$/i.test(url) || url.startsWith("data:image/");
