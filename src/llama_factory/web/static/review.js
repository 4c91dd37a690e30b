// Keys of the review; the buttons do the same.
"use strict";

const decide = document.getElementById("decide");

function press(value) {
  const button = decide.querySelector(`button[name="do"][value="${value}"]`);
  if (button) decide.requestSubmit(button);
}

function mark(number) {
  const box = decide.querySelector(`input[name="numbers"][value="${number}"]`);
  if (box) box.checked = !box.checked;
}

document.addEventListener("keydown", (event) => {
  const types = event.target.matches("textarea, select, input:not([type=checkbox])");
  if (!decide || types || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) return mark(event.key);
  if (event.key === "a") press("keep");
  if (event.key === "d") press("drop");
  if (event.key === "s") document.getElementById("skip")?.click();
  if (event.key === "e") {
    event.preventDefault();
    decide.elements.edited.focus();
  }
});
