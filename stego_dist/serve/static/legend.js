// The list of classes: name, colour, share; each a button.
import { classesOf, listed } from "./names.js";

export function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

export class Legend {
  // on.choose(class, button); on.light(clusters or null)
  constructor(section, on) {
    this.here = section.querySelector("#here");
    this.others = section.querySelector("#others");
    this.on = on;
  }

  // shares: by cluster, or null before any image.
  render(clusters, shares, locked) {
    const classes = classesOf(clusters).map((entry) => ({
      ...entry, share: shares ? entry.clusters.reduce((sum, cluster) => sum + shares[cluster], 0) : null,
    }));
    const seen = classes.filter((entry) => entry.share !== 0);
    if (shares) seen.sort((a, b) => b.share - a.share);
    const absent = classes.filter((entry) => entry.share === 0);
    this.here.replaceChildren(...seen.map((entry) => this.entry(entry, locked)));
    this.others.hidden = !absent.length;
    this.others.querySelector("summary").textContent = `Not in this image: ${absent.length}`;
    this.others.querySelector("ul").replaceChildren(...absent.map((entry) => this.entry(entry, locked)));
    return seen;
  }

  entry(entry, locked) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "entry";
    button.disabled = Boolean(locked);
    button.dataset.clusters = entry.clusters.join(" ");
    button.style.setProperty("--colour", entry.colour);
    const add = (kind, text) => {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      button.append(part, " ");
      return part;
    };
    add("swatch", "");
    add("name", entry.name);
    add("share", entry.share === null ? "" : percent(entry.share));
    if (entry.share) add("bar", "").style.setProperty("--share", entry.share);
    if (entry.clusters.length > 1) add("note", listed(entry.clusters));
    button.addEventListener("click", () => this.on.choose(entry, button));
    const light = () => this.on.light(entry.clusters);
    button.addEventListener("pointerenter", light);
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) light(); });
    for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => this.on.light(null));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  button(cluster) {
    const all = [...this.here.querySelectorAll("button"), ...this.others.querySelectorAll("button")];
    return all.find((button) => button.dataset.clusters.split(" ").includes(String(cluster)));
  }

  // Mark the class of a cluster, or none.
  mark(cluster) {
    for (const button of this.here.querySelectorAll(".on")) button.classList.remove("on");
    if (cluster !== null) this.button(cluster)?.classList.add("on");
  }
}
