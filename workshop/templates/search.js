// Search over SECTIONS, which sections.js defines: no server is asked, so it works from
// a folder. Every word must stand in a section; words in headings count more.
const MOST = 20, AROUND = 70;
const up = document.currentScript.dataset.up;
const box = document.getElementById("search");
const found = document.getElementById("found");
const results = document.getElementById("results");

function begins(word) {  // `ata` finds "ATA", and not "data"
  const plain = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}])${plain}`, "giu");
}

function score(section, words) {
  let sum = 0;
  for (const word of words) {
    const named = `${section.title} ${section.heading}`.match(word);
    const times = section.text.match(word)?.length ?? 0;
    if (!times && !named) return 0;
    sum += Math.log1p(times) + (named ? 5 : 0);
  }
  return sum;
}

function item(section, word) {
  const line = document.createElement("li"), link = document.createElement("a");
  link.href = up + section.link;
  link.textContent = [section.title, section.heading].filter(Boolean).join(": ");
  const at = Math.max(0, section.text.search(word) - AROUND);
  const cut = section.text.slice(at, at + 2 * AROUND);
  line.append(link, document.createElement("br"), `${at ? "…" : ""}${cut}…`);
  return line;
}

function search() {
  const words = box.value.split(/\s+/).filter(Boolean).map(begins);
  const scored = SECTIONS.map(section => [score(section, words), section]);
  const hits = words.length ? scored.filter(([sum]) => sum > 0) : [];
  hits.sort((one, other) => other[0] - one[0]);
  const shown = hits.slice(0, MOST);
  results.replaceChildren(...shown.map(([, section]) => item(section, words[0])));
  const more = hits.length > MOST ? `, the best ${MOST} shown` : "";
  const counted = hits.length === 1 ? "1 section" : `${hits.length} sections`;
  found.textContent = words.length ? `${counted} found${more}` : "";
}

box.addEventListener("input", search);
box.form.addEventListener("submit", event => {
  event.preventDefault();
  results.querySelector("a")?.focus();
});
