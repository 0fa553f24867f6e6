"use strict";
// One page, two sources: the rows that it holds itself, or the server that gave it. What is shown is text, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const MAX_SUGGESTIONS = 8;

function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

/* Embeddings as bytes, each row with a scale of its own: a cosine is a product of whole numbers, scaled. */
class Codes {
  constructor({ dim, values, scales }) {
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
    this.dim = dim;
    this.values = new Int8Array(bytes(values));
    this.scales = new Float32Array(bytes(scales));
  }

  vector(row) {
    const start = row * this.dim;
    return Float32Array.from(this.values.subarray(start, start + this.dim), (value) => value * this.scales[row]);
  }

  nearest(vector, k, kind) {
    const scores = Array.from(this.scales, (scale, row) => {
      const start = row * this.dim;
      let sum = 0;
      for (let place = 0; place < this.dim; place++) sum += this.values[start + place] * vector[place];
      return { row, score: calibrated(sum * scale, row, kind) };
    });
    return scores.sort((one, other) => other.score - one.score).slice(0, k);
  }
}

/* What a calibration makes of a row's cosine with words ("text") or with an image ("picture"). */
function calibrated(cosine, row, kind) {
  const [slope, offset] = data.maps[data.items[row].set][kind];
  const added = kind === "text" && data.added.length ? data.added[row] : 0;
  return slope * cosine + offset + added;
}

/* The rows that lie in the page. */
function ownRows() {
  const items = new Codes(data.codes);
  const asked = { queries: new Codes(data.query_codes), captions: new Codes(data.caption_codes) };
  const name = ({ row, score }) => ({ row, score, ...data.items[row] });
  return {
    start: () => data.start.map((row) => name({ row })),
    item: async (row) => {
      const kind = data.items[row].is_image ? "picture" : "text";
      const found = items.nearest(items.vector(row), data.top + 1, kind).filter((hit) => hit.row !== row);
      return { ...data.items[row], hits: found.slice(0, data.top).map(name) };
    },
    asked: async (kind, row) => ({
      ...data[kind][row],
      hits: items.nearest(asked[kind].vector(row), data.top, data[kind][row].thumb ? "picture" : "text").map(name),
    }),
  };
}

/* The server that gave this page: addresses are relative to its own, which holds the key. */
function served() {
  const fetched = async (address, options) => {
    const answer = await fetch(address, options);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return { ...found, hits: found.hits.map(withPicture), thumb: thumb(found) };
  };
  const thumb = (hit) => (hit.is_image ? `picture/${hit.row}` : null);
  const withPicture = (hit) => ({ ...hit, thumb: thumb(hit), whole: thumb(hit) && `picture/${hit.row}/whole` });
  return {
    start: () => data.start.map(withPicture),
    item: (row) => fetched(`nearest/${row}`),
    text: (words) => fetched(`search?${new URLSearchParams({ text: words })}`),
    file: (file) => fetched("search", { method: "POST", body: file }),
  };
}

const source = data.live ? served() : ownRows();
let asking = 0;

function show({ title, thumb = null, hits, note = "" }) {
  element("title").textContent = title;
  element("asked-picture").hidden = !thumb;
  if (thumb) element("asked-picture").src = thumb;
  report(note);
  element("results").replaceChildren(...hits.map((hit) => (hit.thumb ? pictureHit(hit) : captionHit(hit))));
}

function report(note, failed = false) {
  element("status").textContent = note;
  element("status").classList.toggle("failed", failed);
  element("results").removeAttribute("aria-busy");
}

function pictureHit(hit) {
  const score = hit.score === undefined ? "" : hit.score.toFixed(3);
  const paths = [hit.name, ...hit.others];
  const choose = make(
    "button",
    { type: "button", title: paths.join("\n") },
    make(
      "figure",
      {},
      make("img", { src: hit.thumb, alt: hit.name, loading: "lazy" }),
      make("figcaption", {}, make("b", {}, score), make("span", {}, hit.name)),
    ),
  );
  choose.addEventListener("click", () => go({ item: hit.row }));
  const whole = hit.whole && make("a", { className: "whole", href: hit.whole, target: "_blank" }, "open");
  return make("li", {}, choose, ...(whole ? [whole] : []));
}

function captionHit(hit) {
  const score = hit.score === undefined ? "" : hit.score.toFixed(3);
  const said = make("span", { dir: "auto" }, hit.name, make("small", {}, hit.others.slice(0, 3).join(", ")));
  const choose = make("button", { type: "button" }, make("b", {}, score), said);
  choose.addEventListener("click", () => go({ item: hit.row }));
  return make("li", {}, choose);
}

/* Where the page stands is written after its #, so that going back goes back. */
function go(place) {
  const wanted = `#${new URLSearchParams(place)}`;
  if (location.hash === wanted) arrive();
  else location.hash = wanted;
}

async function arrive() {
  const place = new URLSearchParams(location.hash.slice(1));
  const [[kind, value] = ["start", ""]] = place;
  suggest([]);
  element("words").value = kind === "text" ? value : "";
  await answer(async () => {
    if (kind === "item") return nearestTo(await source.item(Number(value)));
    if (kind === "text" && source.text) return nearestTo(await source.text(value));
    if (kind in { queries: 0, captions: 0 } && source.asked) return nearestTo(await source.asked(kind, Number(value)));
    return { title: `Some of the ${data.noun}s`, hits: source.start() };
  });
}

/* Show what a question comes to, unless another has been asked since. */
async function answer(question) {
  const mine = ++asking;
  element("results").setAttribute("aria-busy", "true");
  try {
    const found = await question();
    if (mine !== asking) return;
    show(found);
    scrollTo({ top: 0 });
  } catch (error) {
    if (mine === asking) report(error.message, true);
  }
}

function nearestTo(found) {
  const note = found.seconds === undefined ? "" : `${(1000 * found.seconds).toFixed(0)} ms`;
  return { title: `Nearest to ${found.thumb ? found.name : `“${found.name}”`}`, note, ...found };
}

function suggest(found) {
  const list = element("suggestions");
  list.hidden = !found.length;
  list.replaceChildren(
    ...found.map((row) => {
      const choose = make("button", { type: "button", dir: "auto" }, data.captions[row].name);
      choose.addEventListener("click", () => go({ captions: row }));
      return make("li", {}, choose);
    }),
  );
}

function captionsWith(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (let row = 0; words.length && row < data.captions.length && found.length < MAX_SUGGESTIONS; row++) {
    const caption = data.captions[row].name.toLowerCase();
    if (words.every((word) => caption.includes(word))) found.push(row);
  }
  return found;
}

function askFile(file) {
  if (!file) return;
  const shown = URL.createObjectURL(file);
  answer(async () => {
    const found = await source.file(file);
    return { ...nearestTo({ ...found, thumb: shown }), title: "Nearest to your image" };
  });
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = element("words").value.trim();
  if (data.live) {
    if (words) go({ text: words });
    return;
  }
  const [first] = captionsWith(words);
  if (first !== undefined) go({ captions: first });
  else report(words ? "No caption on this page holds all of these words." : "", true);
});

if (data.live) {
  element("file").addEventListener("change", (event) => {
    askFile(event.target.files[0]);
    event.target.value = "";
  });
  const dropping = (is) => (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", is);
  };
  addEventListener("dragover", dropping(true));
  addEventListener("dragleave", dropping(false));
  addEventListener("drop", (event) => {
    dropping(false)(event);
    askFile(event.dataTransfer.files[0]);
  });
} else {
  element("words").addEventListener("input", (event) => suggest(captionsWith(event.target.value)));
}

element("queries").replaceChildren(
  ...data.queries.map((query, row) => {
    const picture = query.thumb ? [make("img", { src: query.thumb, alt: "" })] : [];
    const choose = make("button", { type: "button" }, ...picture, make("span", {}, query.name));
    choose.addEventListener("click", () => go(data.live ? { text: query.name } : { queries: row }));
    return make("li", {}, choose);
  }),
);
element("queries").hidden = !data.queries.length;
addEventListener("hashchange", arrive);
arrive();
