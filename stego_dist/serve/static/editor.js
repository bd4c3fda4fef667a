// The dialog that names clusters. What is typed shows in the picture at once; saving asks the server.
import { askJson } from "./api.js";
import { classesOf, edited, listed } from "./names.js";

export class Editor {
  // on.preview(clusters or null, chosen or null); on.saved(names, cluster);
  // on.overtaken(names, error): they were changed elsewhere
  constructor(dialog, on) {
    this.dialog = dialog;
    this.on = on;
    this.form = dialog.querySelector("form");
    this.title = dialog.querySelector("h2");
    this.scope = dialog.querySelector(".scope");
    this.name = this.form.elements.name;
    this.colour = this.form.elements.colour;
    this.hint = dialog.querySelector("[role=status]");
    this.error = dialog.querySelector("[role=alert]");
    this.name.addEventListener("input", () => this.changed());
    this.colour.addEventListener("input", () => { this.touched = true; this.changed(); });
    this.scope.addEventListener("change", () => { this.choose(this.scope.querySelector(":checked").value); });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.save(); });
    this.form.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => on.preview(null, null));
  }

  // names: {version, clusters}; cluster: the one that is meant, or null for all of `entry`; near: a place on the screen.
  open(names, entry, cluster, near) {
    this.names = names;
    this.entry = entry;
    this.error.textContent = "";
    const known = classesOf(names.clusters).map((other) => other.name).filter((name) => name !== entry.name);
    this.dialog.querySelector("datalist").replaceChildren(...known.map((name) => new Option("", name)));
    this.offer(cluster);
    this.choose(cluster === null || entry.clusters.length === 1 ? "all" : String(cluster));
    this.dialog.showModal();
    const { offsetWidth: width, offsetHeight: height } = this.dialog;
    const place = (at, size, room) => `${Math.max(8, Math.min(at, room - size - 8))}px`;
    this.dialog.style.left = place(near.x, width, innerWidth);
    this.dialog.style.top = place(near.y, height, innerHeight);
    this.name.focus();
    this.name.select();
  }

  // Which of a class's clusters, where it has several.
  offer(cluster) {
    const { name, clusters } = this.entry;
    const choices = [["all", `all of ${name}`], ...clusters.map((one) => [String(one), `cluster ${one} alone`])];
    if (cluster !== null) choices.sort(([a], [b]) => (b === String(cluster)) - (a === String(cluster)));
    this.scope.hidden = clusters.length === 1;
    this.scope.replaceChildren(this.scope.querySelector("legend"), ...choices.map(([value, text]) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "scope", value });
      label.append(radio, ` ${text}`);
      return label;
    }));
  }

  choose(value) {
    const { name, colour, clusters } = this.entry;
    this.chosen = value === "all" ? clusters : [Number(value)];
    const radio = this.scope.querySelector(`[value="${value}"]`);
    if (radio) radio.checked = true;
    this.title.textContent = clusters.length === 1 || value !== "all" ? `Name ${listed(this.chosen)}` : `Name ${name}`;
    this.name.value = name;
    this.colour.value = colour;
    this.touched = false;
    this.changed();
  }

  changed() {
    const name = this.name.value.trim();
    const joined = classesOf(this.names.clusters.map((entry, cluster) => (
      this.chosen.includes(cluster) ? { name: "\n", colour: "" } : entry  // no name has a line break
    ))).find((entry) => entry.name === name);
    if (!this.touched) this.colour.value = joined ? joined.colour : this.entry.colour;
    const part = this.chosen.length < this.entry.clusters.length;
    if (joined && name !== this.entry.name) this.hint.textContent = `Becomes one class with ${listed(joined.clusters)}.`;
    else if (part && name !== this.entry.name && !this.touched) this.hint.textContent = "Gets a colour of its own.";
    else this.hint.textContent = "";
    this.on.preview(edited(this.names.clusters, this.chosen, name, this.colour.value), this.chosen);
  }

  async save() {
    const [cluster] = this.chosen;
    const edit = {
      clusters: this.chosen, name: this.name.value, colour: this.touched ? this.colour.value : null,
      version: this.names.version,
    };
    try {
      const names = await askJson("/api/names", { method: "PUT", body: JSON.stringify(edit) });
      this.dialog.close();
      this.on.saved(names, cluster);
    } catch (error) {
      if (!error.said?.names) { this.error.textContent = error.message; return; }
      this.dialog.close();
      this.on.overtaken(error.said.names, error);
    }
  }
}
