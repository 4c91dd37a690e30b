// The chat: answers appear as they are made. Without this script the form asks for whole answers.
"use strict";

const ask = document.getElementById("ask");
const talk = document.getElementById("talk");
const stop = document.getElementById("stop");
const KEY = "lf_api_key";
let asking = null;

const key = ask.elements.key;
if (key) key.value = sessionStorage.getItem(KEY) || "";

function headers() {
  const sent = { "content-type": "application/json" };
  if (key && key.value) {
    sessionStorage.setItem(KEY, key.value);
    sent.authorization = `Bearer ${key.value}`;
  }
  return sent;
}

function post(path, body, signal) {
  return fetch(ask.dataset.api + path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
}

async function problemOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

function complain(text) {
  const place = document.getElementById("problem");
  place.replaceChildren();
  if (!text) return;
  const line = document.createElement("p");
  line.className = "problem";
  line.textContent = text;
  place.append(line);
}

function add(name, text) {
  const block = document.getElementById(name).content.cloneNode(true).firstElementChild;
  block.querySelector(".text").textContent = text;
  talk.append(block);
  return block;
}

function remember(text) {
  const turn = document.createElement("input");
  Object.assign(turn, { type: "hidden", name: "turns", value: text });
  ask.append(turn);
}

function requestOf(prompt) {
  const said = [...ask.querySelectorAll('input[name="turns"]')].map((each) => each.value);
  const messages = [...said, prompt].map((content, n) => ({ role: n % 2 ? "assistant" : "user", content }));
  return {
    model: ask.elements.version.value,
    messages,
    temperature: Number(ask.elements.temperature.value),
    max_completion_tokens: Number(ask.elements.max_tokens.value),
    knowledge: { use: ask.elements.knowledge.checked },
    user: ask.dataset.user,
    stream: true,
  };
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (left + value).split("\n");
    left = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const text = line.slice(5).trim();
      if (text === "[DONE]") return;
      yield JSON.parse(text);
    }
  }
}

function cite(block, chunk) {
  const part = block.querySelector(".citations");
  part.hidden = chunk.citations.length === 0;
  for (const each of chunk.citations) {
    const item = document.createElement("li");
    const file = document.createElement("strong");
    item.value = each.n;
    file.textContent = each.file;
    item.append(file, ` ${each.heading || ""} `);
    if (each.is_cited) {
      const mark = document.createElement("span");
      mark.className = "mark promoted";
      mark.textContent = ask.dataset.cited;
      item.append(mark);
    }
    item.append(document.createElement("br"), each.text);
    part.querySelector("ol").append(item);
  }
  const unknown = block.querySelector(".unknown");
  unknown.hidden = !chunk.unknown_citations;
  unknown.querySelector("span").textContent = (chunk.unknown_citations || []).join(", ");
}

function take(block, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.id) block.querySelector('[name="completion_id"]').value = chunk.id;
  block.querySelector("footer").textContent = chunk.model || "";
  block.querySelector(".text").textContent += chunk.choices?.[0]?.delta?.content || "";
  if (chunk.citations) cite(block, chunk);
  return Boolean(chunk.choices?.[0]?.finish_reason);
}

async function answer(prompt) {
  asking = new AbortController();
  const reply = await post("chat/completions", requestOf(prompt), asking.signal);
  if (!reply.ok) throw new Error(await problemOf(reply));
  add("question", prompt);
  const block = add("answer", "");
  ask.elements.prompt.value = "";
  let isWhole = false;
  try {
    for await (const chunk of events(reply)) isWhole = take(block, chunk) || isWhole;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    isWhole = true;
  }
  if (!isWhole) throw new Error(ask.dataset.cut);
  remember(prompt);
  remember(block.querySelector(".text").textContent);
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (asking) return;
  complain("");
  stop.hidden = false;
  try {
    await answer(ask.elements.prompt.value);
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
  stop.hidden = true;
  asking = null;
  ask.elements.prompt.focus();
});

ask.elements.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask.requestSubmit();
});

stop.addEventListener("click", () => asking?.abort());

talk.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const body = { completion_id: form.elements.completion_id.value, rating: event.submitter.value, user: ask.dataset.user };
  if (form.elements.correction.value.trim()) body.correction = form.elements.correction.value;
  const place = form.querySelector('[role="status"]');
  try {
    const reply = await post("feedback", body);
    place.textContent = reply.ok ? ask.dataset.thanks : await problemOf(reply);
  } catch (error) {
    place.textContent = error.message;
  }
});
