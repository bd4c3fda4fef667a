(() => {
  const drawing = document.querySelector("svg.parallel");
  const readout = document.getElementById("readout");
  const lines = [...drawing.querySelectorAll(".trial")];
  const rows = new Map([...document.querySelectorAll("tr[data-trial]")].map((row) => [row.dataset.trial, row]));
  const points = new Map(lines.map((line) => [line, [...line.points].map((p) => [p.x, p.y])]));
  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  let picked = null;
  const pick = (line) => {
    if (line === picked) return;
    for (const part of [picked, picked && rows.get(picked.dataset.trial)]) part?.classList.remove("on");
    picked = line;
    for (const part of [line, line && rows.get(line.dataset.trial)]) part?.classList.add("on");
    drawing.classList.toggle("picked", line !== null);
    readout.textContent = line ? line.querySelector("title").textContent : "";
  };
  const heightAt = (line, x) => {
    const places = points.get(line);
    const next = places.findIndex((p) => p[0] >= x);
    if (next < 1) return next === 0 && places[0][0] - x < 1 ? places[0][1] : Infinity;
    const [a, b] = [places[next - 1], places[next]];
    return a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]);
  };
  drawing.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    const away = (line) => Math.abs(heightAt(line, at.x) - at.y);
    const near = lines.reduce((a, b) => (away(b) <= away(a) ? b : a), lines[0]);
    pick(away(near) < 12 ? near : null);
  });
  drawing.addEventListener("pointerleave", () => pick(null));
  drawing.addEventListener("blur", () => pick(null));
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowDown: -1, ArrowLeft: -1, ArrowUp: 1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = picked ? lines.indexOf(picked) + step : lines.length - 1;
    pick(lines[Math.max(0, Math.min(lines.length - 1, at))]);
  });
  for (const [trial, row] of rows) {
    row.addEventListener("pointerenter", () => pick(lines.find((line) => line.dataset.trial === trial)));
    row.addEventListener("pointerleave", () => pick(null));
  }
})();
