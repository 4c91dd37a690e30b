// Files go to the inbox one after another in pieces, each as it is, with a bar; a cut goes on where it was.
// Without this script a form takes them.
"use strict";

const PIECE = 8 << 20;
const TRIES = 6;
const upload = document.getElementById("upload");
const bar = upload.querySelector("progress");
const line = upload.querySelector('[role="status"]');

class Refused extends Error {}

function show(name, received, size) {
  bar.value = size ? received / size : 1;
  line.textContent = `${name}: ${Math.floor(bar.value * 100)} %`;
}

// One request; `told` hears how many bytes of the body have gone.
function post(address, body, told = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.setRequestHeader("x-csrf-token", document.querySelector('meta[name="csrf"]').content);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => told(event.loaded));
    request.addEventListener("load", () => resolve({ status: request.status, text: request.responseText }));
    request.addEventListener("error", () => reject(new Error("network")));
    request.send(body);
  });
}

async function ask(address, body, told) {
  const { status, text } = await post(address, body, told);
  let reply = {};
  try {
    reply = JSON.parse(text);
  } catch {
    if (status < 500) throw new Refused(`${status}`);
  }
  if (status >= 500) throw new Error(`${status}`);
  if (reply.problem && reply.received < 0) throw new Refused(reply.problem);
  return reply;
}

const rest = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Where the file goes on, asked again with longer rests while nothing arrives.
async function place(about) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await ask(`${upload.dataset.send}?${about}`, null);
    } catch (error) {
      if (error instanceof Refused || failures === TRIES) throw error;
      await rest(2 ** failures / 2);
    }
  }
}

async function send(file) {
  const about = new URLSearchParams({ name: file.name, size: file.size, stamp: file.lastModified });
  let { id, received } = await place(about);
  for (let failures = 0; failures < TRIES; ) {
    const at = received;
    show(file.name, at, file.size);
    try {
      const piece = file.slice(at, at + PIECE);
      const told = (gone) => show(file.name, at + gone, file.size);
      const reply = await ask(`${upload.dataset.send}/${id}?offset=${at}`, piece, told);
      if (!reply.problem && reply.received >= file.size) return;
      if (reply.problem && ++failures === TRIES) throw new Refused(reply.problem);
      received = reply.received;
    } catch (error) {
      if (error instanceof Refused) throw error;
      failures += 1;
      await rest(2 ** failures / 2);
      ({ id, received } = await place(about));
    }
  }
  throw new Error("cut");
}

function complain(text) {
  const part = document.createElement("p");
  part.className = "problem";
  part.textContent = text;
  upload.querySelector('[role="alert"]').append(part);
}

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  upload.querySelector('[role="alert"]').replaceChildren();
  bar.hidden = false;
  let isWhole = true;
  for (const file of [...upload.elements.file.files]) {
    try {
      await send(file);
    } catch (error) {
      isWhole = false;
      complain(error instanceof Refused ? error.message : upload.dataset.cut.replace("{name}", file.name));
    }
  }
  bar.hidden = true;
  if (isWhole) location.reload();
});
