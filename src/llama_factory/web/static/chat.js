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

function named(name, text) {
  const block = document.getElementById(name).content.cloneNode(true).firstElementChild;
  const first = block.firstChild;
  first.nodeValue = first.nodeValue.replace("{name}", text);
  return block;
}

function remember(turn) {
  const field = document.createElement("input");
  Object.assign(field, { type: "hidden", name: "turns", value: JSON.stringify(turn) });
  ask.append(field);
}

function spoken() {
  return [...ask.querySelectorAll('input[name="turns"]')].map((each) => JSON.parse(each.value));
}

// What is new in the conversation: results of the tools that the last turn called, and a question.
function asked(prompt) {
  const calls = spoken().at(-1)?.tool_calls || [];
  const results = [...ask.querySelectorAll('[name="results"]')].map((each) => each.value);
  const turns = calls.map((call, n) => ({ role: "tool", content: results[n] || "", tool_call_id: call.id }));
  if (prompt.trim()) turns.push({ role: "user", content: prompt });
  return turns;
}

function parameters() {
  const { temperature, max_tokens, top_p, seed, stop: stops, tools } = ask.elements;
  const sent = { temperature: Number(temperature.value), max_completion_tokens: Number(max_tokens.value) };
  if (top_p.value) sent.top_p = Number(top_p.value);
  if (seed.value) sent.seed = Number(seed.value);
  const texts = stops.value.split("\n").filter((line) => line.trim());
  if (texts.length) sent.stop = texts;
  const known = tools.value.trim() ? JSON.parse(tools.value) : [];
  if (known.length || !Array.isArray(known)) sent.tools = Array.isArray(known) ? known : [known];
  return sent;
}

function requestOf(turns) {
  const system = ask.elements.system.value;
  const before = system.trim() ? [{ role: "system", content: system }] : [];
  return {
    model: ask.elements.version.value,
    messages: [...before, ...spoken(), ...turns],
    knowledge: { use: ask.elements.knowledge.checked },
    user: ask.dataset.user,
    stream: true,
    ...parameters(),
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

// A call comes in pieces: its name and id first, then its arguments.
function hear(block, calls, deltas) {
  for (const delta of deltas) {
    const call = (calls[delta.index] ||= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (delta.id) call.id = delta.id;
    if (delta.function?.name) {
      call.function.name = delta.function.name;
      block.querySelector(".calls").append(named("call", delta.function.name));
    }
    call.function.arguments += delta.function?.arguments || "";
    const places = block.querySelectorAll(".arguments");
    if (places[delta.index]) places[delta.index].textContent = call.function.arguments;
  }
}

function take(block, chunk, calls) {
  if (chunk.error) throw new Error(chunk.error.message);
  const choice = chunk.choices?.[0];
  if (chunk.id) block.dataset.id = chunk.id;
  block.querySelector("footer").textContent = chunk.model || "";
  block.querySelector(".text").textContent += choice?.delta?.content || "";
  if (choice?.delta?.tool_calls) hear(block, calls, choice.delta.tool_calls);
  if (chunk.citations) cite(block, chunk);
  return Boolean(choice?.finish_reason);
}

// Fields for what the called tools give; with them the next question may be left out.
function wait(calls) {
  const place = document.getElementById("results");
  place.replaceChildren(...calls.map((call) => named("result", call.function.name)));
  ask.elements.prompt.required = calls.length === 0;
}

async function answer(prompt) {
  asking = new AbortController();
  const turns = asked(prompt);
  const reply = await post("chat/completions", requestOf(turns), asking.signal);
  if (!reply.ok) throw new Error(await problemOf(reply));
  turns.forEach((turn) => add(turn.role === "tool" ? "tool-result" : "question", turn.content));
  const block = add("answer", "");
  const rating = block.querySelector("form"); // only whole answers are kept, so only they are rated
  rating.hidden = true;
  const calls = [];
  ask.elements.prompt.value = "";
  let isWhole = false;
  try {
    for await (const chunk of events(reply)) isWhole = take(block, chunk, calls) || isWhole;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    isWhole = true;
    block.dataset.id = "";
  }
  if (!isWhole) throw new Error(ask.dataset.cut);
  rating.elements.completion_id.value = block.dataset.id;
  rating.hidden = !block.dataset.id;
  turns.forEach(remember);
  const content = block.querySelector(".text").textContent;
  remember({ role: "assistant", content, ...(calls.length ? { tool_calls: calls } : {}) });
  wait(calls);
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
