"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.setAttribute("aria-label", "Switch between light and dark");
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  const closed = [];
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { closed.push(part); part.open = true; }
  });
  addEventListener("afterprint", () => { for (const part of closed.splice(0)) part.open = false; });

  const images = document.getElementById("images");
  if (!images) return;
  const form = images.querySelector("form");
  const status = form.querySelector("[role=status]");
  const show = () => {
    const key = form.elements.layer.value;
    if (key) images.dataset.layer = key; else delete images.dataset.layer;
    for (const layer of images.querySelectorAll(".layer")) layer.classList.toggle("on", layer.dataset.key === key);
    form.elements.mix.disabled = !key || key === "image";
    const chosen = form.querySelector("input[name=layer]:checked").parentElement;
    status.textContent = "Shown: " + chosen.firstChild.nextSibling.textContent.trim();
  };
  const mix = () => {
    images.style.setProperty("--mix", form.elements.mix.value / 100);
    form.querySelector("output").textContent = form.elements.mix.value + " %";
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", show);
  form.elements.mix.addEventListener("input", mix);
  images.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.type === "range") return;
    const choices = form.querySelectorAll("input[name=layer]");
    const choice = /^[0-9]$/.test(event.key) && choices[Number(event.key)];
    if (!choice) return;
    choice.checked = true;
    choice.focus();
    show();
  });
  mix();
})();
