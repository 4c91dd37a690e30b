// What the page does besides being read: parts that change are fetched anew when the server says so.
"use strict";

const POLL_SECONDS = 15;
const SETTLE_MS = 300;
const PAUSE_MS = 3000; // between two refreshes: a round changes every second, and many may look on

// Parts with `data-live="topic topic"` and an id are replaced when one of their topics changes.
let waiting = new Set();
let timer = 0;
let refreshed = 0;
let seen = ""; // of the parts that were fetched last

function isBusy(part) {
  const at = document.activeElement;
  const types = at && part.contains(at) && at.matches("input, textarea, select");
  return types || part.querySelector("details.ask[open]") !== null;
}

function isAbout(part, topics) {
  return topics === null || part.dataset.live.split(" ").some((each) => topics.has(each));
}

async function refresh(topics) {
  const all = [...document.querySelectorAll("[data-live][id]")];
  const wanted = all.filter((part) => isAbout(part, topics));
  const parts = all.filter((part) => !isBusy(part));
  if (topics !== null && wanted.some(isBusy)) changed(topics); // when nobody types there
  if (!wanted.some((part) => parts.includes(part)) || document.hidden) return;
  const answer = await fetch(location.href, { headers: { accept: "text/html", "x-part": "live", "if-none-match": seen } });
  if (!answer.ok || answer.redirected) return; // also where nothing changed
  seen = parts.length === all.length ? answer.headers.get("etag") || "" : "";
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const next = fresh.getElementById(part.id);
    if (next === null || next.isEqualNode(part)) continue;
    const open = [...part.querySelectorAll("details[open]")].map((each) => [...part.querySelectorAll("details")].indexOf(each));
    const end = part.querySelector(".log");
    const place = end ? end.scrollHeight - end.scrollTop - end.clientHeight : 0;
    part.replaceWith(next);
    open.forEach((number) => next.querySelectorAll("details")[number]?.setAttribute("open", ""));
    const log = next.querySelector(".log");
    if (log && place < 40) log.scrollTop = log.scrollHeight;
    document.dispatchEvent(new CustomEvent("part", { detail: next }));
  }
}

function changed(topics) {
  topics.forEach((each) => waiting.add(each));
  if (timer) return;
  timer = setTimeout(
    () => {
      const now = waiting;
      waiting = new Set();
      timer = 0;
      refreshed = Date.now();
      refresh(now).catch(() => {});
    },
    Math.max(SETTLE_MS, refreshed + PAUSE_MS - Date.now()),
  );
}

function poll() {
  const look = () => refresh(null).catch(() => {});
  setInterval(look, POLL_SECONDS * 1000);
  document.addEventListener("visibilitychange", look);
}

// One stream, while somebody looks: a page in the background is told nothing and asks nothing.
function follow(address) {
  if (!window.EventSource) return poll();
  let stream = null;
  let failures = 0;
  let wasOpen = false;
  let isCut = false; // where streams do not come through

  function open() {
    if (stream || isCut || document.hidden) return;
    const opened = new EventSource(address);
    stream = opened;
    opened.addEventListener("open", () => {
      failures = 0;
      if (wasOpen) refresh(null).catch(() => {}); // what changed meanwhile
      wasOpen = true;
    });
    opened.addEventListener("changed", (event) => changed(JSON.parse(event.data)));
    opened.addEventListener("error", () => {
      failures += 1;
      if (failures < 3 && opened.readyState !== EventSource.CLOSED) return;
      close();
      isCut = true;
      poll();
    });
  }

  function close() {
    stream?.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

const events = document.body.dataset.events;
if (events && document.querySelector("[data-live]")) follow(events);

const log = document.querySelector(".log");
if (log) log.scrollTop = log.scrollHeight;
