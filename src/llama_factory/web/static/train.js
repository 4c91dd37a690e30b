// The form of a run: what it comes to is shown while one writes, and settings are found by a word.
"use strict";

const settings = document.getElementById("settings");
const search = document.getElementById("search");
const TYPING_MS = 350;
let asked = 0;
let pause = 0;

// The server draws the page as for the button "show"; its parts take the place of those here.
async function show(part, address) {
  asked += 1;
  const mine = asked;
  const answer = await fetch(address || settings.dataset.show, { method: "POST", body: new URLSearchParams(new FormData(settings)) });
  if (!answer.ok || mine !== asked) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("preview").replaceWith(fresh.getElementById("preview"));
  if (part) document.getElementById(part).replaceWith(fresh.getElementById(part));
  for (const field of settings.querySelectorAll("[data-field]")) {
    const other = fresh.querySelector(`[data-field="${CSS.escape(field.dataset.field)}"]`);
    if (other === null) continue;
    field.classList.toggle("wrong", other.classList.contains("wrong"));
    field.querySelector(".problem").replaceWith(other.querySelector(".problem"));
  }
  filter();
}

function filter() {
  const word = search.value.trim().toLowerCase();
  const plain = (text) => text.toLowerCase().replaceAll("_", " ");
  for (const field of settings.querySelectorAll("[data-field]")) {
    field.hidden = word !== "" && !plain(field.textContent).includes(plain(word));
  }
  for (const group of settings.querySelectorAll("details.group")) {
    const found = group.querySelector("[data-field]:not([hidden])") !== null;
    group.hidden = !found;
    if (word !== "" && found) group.open = true;
  }
}

function written(event) {
  if (event.target === search) return filter();
  clearTimeout(pause);
  const part = event.target.matches("[data-part]") ? event.target.id.replace("f-", "p-") : "";
  pause = setTimeout(() => show(part).catch(() => {}), part ? 0 : TYPING_MS);
}

settings.addEventListener("input", written);
settings.addEventListener("change", written); // not every way to choose in a list tells both
settings.addEventListener("submit", async (event) => {
  const button = event.submitter;
  if (!button || button.formAction === settings.action) return;
  event.preventDefault();
  document.getElementById("preview").setAttribute("aria-busy", "true");
  button.disabled = true;
  await show("", button.formAction).catch(() => {});
  document.getElementById("preview").removeAttribute("aria-busy");
  button.disabled = false;
});
search.addEventListener("keydown", (event) => {
  if (event.key === "Enter") event.preventDefault();
});
// The list of runs is drawn anew while runs go on: what was ticked stays so.
const ticked = new Set();
document.addEventListener("change", (event) => {
  if (event.target.name !== "run") return;
  if (event.target.checked) ticked.add(event.target.value);
  else ticked.delete(event.target.value);
});
document.addEventListener("part", (event) => {
  for (const box of event.detail.querySelectorAll('input[name="run"]')) box.checked = ticked.has(box.value);
});
search.closest("p").hidden = false;
