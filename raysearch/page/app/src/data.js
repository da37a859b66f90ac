// The data of the page: a manifest in JSON, and columns as typed arrays over one inflated buffer.

const ARRAYS = { f64: Float64Array, f32: Float32Array, i32: Int32Array, u16: Uint16Array, u8: Uint8Array, hex: Uint8Array };

/** The bytes of a base64 text. */
function unpacked(text) {
  return Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** What gzipped bytes hold. @returns {Promise<ArrayBuffer>} */
async function inflate(packed) {
  if (!packed.byteLength) return new ArrayBuffer(0);
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

/** A table of `n` rows whose columns are views of a buffer; nothing is read before somebody asks for it. */
export class Table {
  constructor(spec, buffer) {
    this.n = spec ? spec.n : 0;
    this.spec = spec ? spec.columns : {};
    this.buffer = buffer;
    this.read = new Map();
    this.texts = new Map();
  }

  has(name) {
    return Object.hasOwn(this.spec, name);
  }

  names() {
    return Object.keys(this.spec);
  }

  isText(name) {
    return this.has(name) && this.spec[name].type === "dict";
  }

  /** The values of a column: numbers, codes of texts, or bytes of ids. Null if there is no such column. */
  column(name) {
    if (!this.has(name)) return null;
    if (!this.read.has(name)) {
      const { type, codes, offset, length } = this.spec[name];
      this.read.set(name, new ARRAYS[codes ?? type](this.buffer, offset, length));
    }
    return this.read.get(name);
  }

  /** A number, or NaN where the row has none. */
  number(name, row) {
    const column = this.column(name);
    if (!column || !(row >= 0)) return NaN;
    const value = column[row];
    return this.spec[name].type === "i32" && value === -1 ? NaN : value;
  }

  /** A text, or "" where the row has none. */
  text(name, row) {
    const column = this.column(name);
    if (!column || !(row >= 0)) return "";
    const { type, width } = this.spec[name];
    if (type === "dict") return this.values(name)[column[row]] ?? "";
    if (type !== "hex") return String(column[row]);
    const bytes = column.subarray(row * width, (row + 1) * width);
    return bytes.some((b) => b) ? Array.from(bytes, hex).join("") : "";
  }

  /** The texts that a column's codes stand for. */
  values(name) {
    if (!this.isText(name)) return [];
    if (!this.texts.has(name)) {
      const { offset, bytes } = this.spec[name].strings;
      this.texts.set(name, JSON.parse(new TextDecoder().decode(new Uint8Array(this.buffer, offset, bytes))));
    }
    return this.texts.get(name);
  }
}

/** A run: its manifest, its tables, and the candidates of a search, which may lie in a file of their own. */
export class Run {
  constructor(manifest, buffer) {
    this.manifest = manifest;
    const table = (name) => new Table(manifest.tables[name], buffer);
    this.searches = table("searches");
    this.candidates = table("candidates");
    this.timeline = table("timeline");
    this.utilisation = table("utilisation");
    this.costs = table("costs");
    this.shards = new Map();
  }

  /** The candidates of a search: a table, and the rows from `start` to before `end`. */
  async candidatesOf(search) {
    const { shards } = this.manifest;
    const at = shards.findIndex((s) => search >= s.first_search && search < s.first_search + s.searches);
    const table = at < 0 ? this.candidates : await this.shard(at);
    const count = this.searches.number("candidates", search) || 0;
    const start = count ? this.searches.number("first_candidate", search) - (at < 0 ? 0 : shards[at].first_candidate) : 0;
    return { table, start, end: start + count };
  }

  shard(at) {
    if (!this.shards.has(at)) this.shards.set(at, script(this.manifest.shards[at].file, at).then((text) => this.opened(at, text)));
    return this.shards.get(at);
  }

  async opened(at, text) {
    return new Table(this.manifest.shards[at].table, await inflate(unpacked(text)));
  }
}

// A page on file:// may not fetch a file, but it may load a script, which calls this function with what it holds.
const awaited = new Map();
window.raysearchShard = (n, text) => awaited.get(n)?.(text);

function script(file, n) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    awaited.set(n, resolve);
    element.onload = () => element.remove();
    element.onerror = () => reject(new Error(`${file} is missing beside this page`));
    element.src = file;
    document.head.append(element);
  });
}

/** The run of this page. @returns {Promise<Run>} */
export async function read() {
  const text = (id) => document.getElementById(id).textContent.trim();
  return new Run(JSON.parse(text("manifest")), await inflate(unpacked(text("columns"))));
}

/** What `raysearch view` serves now, or null if that is what was seen last. @returns {Promise<Run?>} */
export async function refreshed() {
  const answer = await fetch("data.json", { cache: "no-cache" }); // its ETag: an unchanged one costs no body
  const tag = answer.headers.get("ETag");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  if (tag && tag === refreshed.tag) return null;
  const { manifest, columns } = await answer.json();
  const block = await fetch(columns);
  if (!block.ok) return null; // a newer one is there already
  const buffer = await inflate(await block.arrayBuffer());
  refreshed.tag = tag;
  return new Run(manifest, buffer);
}
