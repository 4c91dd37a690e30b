// Two side by side: says that both are being asked, and keeps the key for this tab. Nothing else needs a script.
"use strict";

const KEY = "lf_api_key";
const both = document.getElementById("ask-both");

for (const field of document.querySelectorAll('input[name="key"]')) {
  field.value = sessionStorage.getItem(KEY) || "";
  field.addEventListener("change", () => sessionStorage.setItem(KEY, field.value));
}

both.addEventListener("submit", () => {
  both.querySelector('[role="status"]').textContent = both.dataset.asking;
  both.querySelector("button").disabled = true;
});

window.addEventListener("pageshow", () => {
  both.querySelector("button").disabled = false;
});
