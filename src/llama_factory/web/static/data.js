// Files go to the inbox one after another, each as it is, with a bar. Without this script a form takes them.
"use strict";

const upload = document.getElementById("upload");
const bar = upload.querySelector("progress");

function send(file, done, total) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${upload.dataset.send}?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("x-csrf-token", document.querySelector('meta[name="csrf"]').content);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => {
      bar.value = (done + event.loaded) / total;
    });
    request.addEventListener("load", () => (request.status < 300 ? resolve() : reject(new Error(request.responseText))));
    request.addEventListener("error", () => reject(new Error(file.name)));
    request.send(file);
  });
}

function complain(text) {
  const line = document.createElement("p");
  line.className = "problem";
  line.textContent = text;
  upload.querySelector('[role="alert"]').append(line);
}

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  const files = [...upload.elements.file.files];
  const total = files.reduce((sum, file) => sum + file.size, 0) || 1;
  upload.querySelector('[role="alert"]').replaceChildren();
  bar.hidden = false;
  let done = 0;
  let isWhole = true;
  for (const file of files) {
    try {
      await send(file, done, total);
    } catch (error) {
      isWhole = false;
      complain(error.message);
    }
    done += file.size;
  }
  bar.hidden = true;
  if (isWhole) location.reload();
});
