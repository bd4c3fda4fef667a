// The page: what is dropped goes to the server, what was seen comes back; the address keeps which image is shown.
import { ask, askJson, imageUrl } from "./api.js";
import { Editor } from "./editor.js";
import { Legend, percent } from "./legend.js";
import { classesOf } from "./names.js";
import { Picture } from "./picture.js";

const root = document.documentElement;
const find = (id) => document.getElementById(id);
const [work, error, status, tip, switches] = ["work", "error", "status", "tip", "switches"].map(find);
const canvas = find("paint");
const picture = new Picture(find("stage"));
const waiting = [];
let state = null;
let names = null;
let recent = [];
let lit = null;

const fail = (problem) => { error.textContent = problem ? problem.message || String(problem) : ""; };

// ---- what is shown

function repaint(clusters = names.clusters, chosen = lit) {
  picture.paint(clusters, chosen);
  const view = switches.elements.view.value;
  const mix = { overlay: switches.elements.mix.value / 100, image: 0, clusters: 1 }[view];
  picture.stage.style.setProperty("--mix", chosen ? Math.max(mix, 0.6) : mix);
  switches.elements.mix.disabled = view !== "overlay";
  switches.querySelector("output").textContent = `${switches.elements.mix.value} %`;
}

function light(clusters) {
  lit = clusters;
  if (!find("editor").open) repaint();
}

const legend = new Legend(find("legend"), {
  light,
  choose(entry, button) {
    const box = button.getBoundingClientRect();
    editor.open(names, entry, null, { x: box.left, y: box.bottom + 4 });
  },
});

const editor = new Editor(find("editor"), {
  preview(clusters, chosen) { if (names) repaint(clusters ?? names.clusters, chosen ?? lit); },
  saved(found, cluster) {
    names = found;
    render();
    fail(null);
    status.textContent = `Saved: ${names.clusters[cluster].name}.`;
    legend.button(cluster)?.focus({ focusVisible: false });
    light(null);
  },
  overtaken(found, problem) {
    names = found;
    render();
    fail(problem);
  },
});

function render() {
  const seen = legend.render(names.clusters, picture.seen?.shares ?? null, state.locked);
  repaint();
  const parts = seen.map((entry) => `${entry.name} ${percent(entry.share ?? 0)}`);
  canvas.setAttribute("aria-label", `Clusters: ${parts.join(", ")}`);
}

function caption() {
  const seen = picture.seen;
  status.textContent = seen ? `${seen.name}, ${seen.width}×${seen.height} pixels` : "";
}

async function show(id) {
  let seen;
  try {
    seen = await askJson(imageUrl(id));
    await picture.show(seen);
  } catch (problem) {
    recent = recent.filter((one) => one.id !== id);
    renderRecent();
    throw problem;
  }
  picture.image.alt = seen.name;
  work.classList.remove("empty");
  find("drop").querySelector("strong").textContent = "Drop another image here";
  switches.hidden = find("downloads").hidden = false;
  caption();
  recent = [{ id, name: seen.name }, ...recent.filter((one) => one.id !== id)].slice(0, state.limits.kept);
  render();
  renderRecent();
}

function renderRecent() {
  sessionStorage.setItem(state.server, JSON.stringify(recent));
  find("recent").hidden = recent.length < 2;
  find("recent").querySelector("ul").replaceChildren(...recent.map(({ id, name }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: name });
    const image = Object.assign(new Image(), { src: imageUrl(id, "/preview.jpg"), alt: name });
    image.addEventListener("error", () => { recent = recent.filter((one) => one.id !== id); item.remove(); });
    if (id === picture.seen?.id) button.setAttribute("aria-current", "true");
    button.append(image);
    button.addEventListener("click", () => { location.hash = id; });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

addEventListener("hashchange", () => {
  const id = location.hash.slice(1);
  if (id && id !== picture.seen?.id) show(id).then(() => fail(null), fail);
});

// ---- what is dropped, chosen or pasted

async function take(files) {
  waiting.push(...files);
  if (work.getAttribute("aria-busy") === "true") return;
  work.setAttribute("aria-busy", "true");
  fail(null);
  while (waiting.length) {
    const file = waiting.shift();
    status.textContent = `Looking at ${file.name}…`;
    try {
      if (file.size > state.limits.bytes) {
        throw new Error(`${file.name} is larger than the limit of ${state.limits.bytes / 1e6} MB (--max-mb).`);
      }
      await file.slice(0, 1).arrayBuffer().catch(() => { throw new Error(`${file.name} can't be read. Is it a folder?`); });
      const path = `/api/images?name=${encodeURIComponent(file.name)}`;
      const { id } = await askJson(path, { method: "POST", body: file });
      await show(id);
      history.pushState(null, "", `#${id}`);
    } catch (problem) {
      caption();
      fail(problem);
    }
  }
  work.setAttribute("aria-busy", "false");
}

for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else fail("What was dropped is no file. Save the image first, or copy and paste it.");
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
find("file").addEventListener("change", (event) => { take([...event.target.files]); event.target.value = ""; });

// ---- looking around, naming

canvas.addEventListener("pointermove", (event) => {
  const cluster = picture.at(event);
  if (cluster === null) return;
  const { name, colour } = names.clusters[cluster];
  tip.hidden = false;
  tip.style.setProperty("--colour", colour);
  tip.querySelector(".name").textContent = name;
  tip.querySelector(".note").textContent = name === `cluster ${cluster}` ? "" : `cluster ${cluster}`;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.translate = `${left}px ${Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8)}px`;
  legend.mark(cluster);
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; legend.mark(null); });
canvas.addEventListener("click", (event) => {
  const cluster = picture.at(event);
  if (cluster === null || state.locked) return;
  tip.hidden = true;
  const entry = classesOf(names.clusters).find((one) => one.clusters.includes(cluster));
  editor.open(names, entry, cluster, { x: event.clientX + 12, y: event.clientY + 12 });
});

switches.addEventListener("submit", (event) => event.preventDefault());
switches.addEventListener("input", () => repaint());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || switches.hidden || find("editor").open) return;
  const choice = /^[123]$/.test(event.key) && switches.querySelectorAll("input[name=view]")[Number(event.key) - 1];
  if (!choice) return;
  choice.checked = true;
  repaint();
});

find("downloads").addEventListener("click", async (event) => {
  const file = event.target.dataset.file;
  if (!file) return;
  const { id, stem } = picture.seen;
  const opacity = switches.elements.mix.value / 100;
  try {
    const path = imageUrl(id, file === "labels" ? "/labels.png" : `/overlay.png?opacity=${opacity}`);
    const url = URL.createObjectURL(await (await ask(path)).blob());
    const link = document.createElement("a");
    link.href = url;
    link.download = `${stem}_${file === "labels" ? "classes" : "overlay"}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    fail(null);
  } catch (problem) {
    fail(problem);
  }
});

// ---- light and dark

const theme = find("theme");
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
label();

// ---- the beginning; and names again, where somebody wrote them elsewhere

async function refresh() {
  const found = await askJson("/api/names");
  if (found.version === names?.version || find("editor").open) return;
  names = found;
  render();
}

async function begin() {
  state = await askJson("/api/state");
  document.title = `${state.run}: clusters`;
  find("run").textContent = state.run;
  find("facts").textContent = `${state.readout} · ${state.backbone} · images seen at ${state.seen} · ${state.device}`;
  find("limits").textContent = `JPEG, PNG, WebP, TIFF, BMP or GIF, up to ${state.limits.bytes / 1e6} MB and ${state.limits.pixels / 1e6} megapixels`;
  if (state.locked) find("advice").textContent = state.locked;
  recent = JSON.parse(sessionStorage.getItem(state.server) || "[]");
  await refresh();
  renderRecent();
  const id = location.hash.slice(1);
  if (id) await show(id);
}

addEventListener("focus", () => { if (names) refresh().then(() => fail(null), fail); });
work.classList.add("empty");
begin().catch(fail);
