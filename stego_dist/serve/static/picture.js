// The image and over it the clusters, painted from a map of clusters and a table of colours.
import { ask, imageUrl } from "./api.js";

const FADED = 40;

export class Picture {
  constructor(stage) {
    this.stage = stage;
    this.image = stage.querySelector("img");
    this.canvas = stage.querySelector("canvas");
    this.seen = null;
    this.cells = null;
  }

  // Load everything, then change what is seen at once.
  async show(seen) {
    const image = new Image();
    image.src = imageUrl(seen.id, "/preview.jpg");
    const [answer] = await Promise.all([ask(imageUrl(seen.id, "/cells")), image.decode()]);
    const cells = new Uint16Array(await answer.arrayBuffer());
    this.seen = seen;
    this.cells = cells;
    this.image.src = image.src;
    this.canvas.width = seen.shown.width;
    this.canvas.height = seen.shown.height;
    this.stage.style.setProperty("--ratio", seen.width / seen.height);
    this.stage.hidden = false;
  }

  // clusters: [{colour}]; lit: clusters that stand out, or null.
  paint(clusters, lit = null) {
    if (!this.cells) return;
    const table = new Uint32Array(clusters.length);
    const bytes = new Uint8Array(table.buffer);
    clusters.forEach(({ colour }, cluster) => {
      for (let i = 0; i < 3; i++) bytes[4 * cluster + i] = parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
      bytes[4 * cluster + 3] = !lit || lit.includes(cluster) ? 255 : FADED;
    });
    const painted = new ImageData(this.canvas.width, this.canvas.height);
    const pixels = new Uint32Array(painted.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[this.cells[i]];
    this.canvas.getContext("2d").putImageData(painted, 0, 0);
  }

  // The cluster under a pointer.
  at(event) {
    if (!this.cells) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * this.canvas.width);
    const y = Math.floor((event.clientY - box.top) / box.height * this.canvas.height);
    const inside = x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height;
    return inside ? this.cells[y * this.canvas.width + x] : null;
  }
}
