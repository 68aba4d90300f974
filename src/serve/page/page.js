"use strict";
// The page of `fourfold serve`: a chat, and what /metrics and /health say, every second.

const byId = (id) => document.getElementById(id);
let key = "";        // of this page's memory only
let model = "";
let turns = [];      // {role, content} of the chat
let running = null;  // AbortController of the answer under way

function headers() {
  const out = {"Content-Type": "application/json"};
  if (key) out.Authorization = "Bearer " + key;
  return out;
}

function ask(path, body, signal) {
  return fetch(path, {
    method: body === undefined ? "GET" : "POST", headers: headers(), signal, cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body), credentials: "omit",
  });
}

function element(name, className, text) {
  const out = document.createElement(name);
  if (className) out.className = className;
  if (text !== undefined) out.textContent = text;
  return out;
}

// ---- Chat

function addTurn(role) {
  byId("hint")?.remove();
  const turn = element("div", "turn " + role);
  turn.append(element("h3", "", role === "user" ? "You" : "Model"), element("pre"));
  byId("log").append(turn);
  return turn;
}

function say(turn, className, text) {
  const note = element("p", className, text);
  turn.append(note);
  byId("log").scrollTop = byId("log").scrollHeight;
}

/** Fields of a request from the settings; those that are empty are left out. */
function settings() {
  const out = {};
  for (const name of ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"]) {
    const value = byId(name).value.trim();
    if (value !== "") out[name] = Number(value);
  }
  return out;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const data = text.slice(0, end).replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function failureOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `${response.status} ${text.slice(0, 300)}`;
  }
}

function showRunning(controller) {
  running = controller;
  byId("send").disabled = controller !== null;
  byId("stop").disabled = controller === null;
}

async function send(text) {
  const chat = byId("mode").value === "chat";
  const body = {model, stream: true, stream_options: {include_usage: true}, ...settings()};
  addTurn("user").querySelector("pre").textContent = text;
  if (chat) {
    turns.push({role: "user", content: text});
    const system = byId("system").value.trim();
    body.messages = [...(system ? [{role: "system", content: system}] : []), ...turns];
  } else {
    body.prompt = text;
  }
  const turn = addTurn("assistant");
  const shown = turn.querySelector("pre");
  const controller = new AbortController();
  showRunning(controller);
  const begin = performance.now();
  let first = 0, answer = "", usage = null, reason = "";
  try {
    const response = await ask(chat ? "v1/chat/completions" : "v1/completions", body, controller.signal);
    if (response.status === 401) askForKey();
    if (!response.ok) throw new Error(await failureOf(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      const piece = (chat ? choice?.delta?.content : choice?.text) ?? "";
      reason = choice?.finish_reason ?? reason;
      if (piece === "") continue;
      first ||= performance.now();
      answer += piece;
      const log = byId("log");
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      shown.textContent = answer;
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
    const end = performance.now();
    const tokens = usage?.completion_tokens ?? 0;
    const rate = tokens > 1 && end > first ? `, ${Math.round((tokens - 1) / (end - first) * 1000)} tok/s` : "";
    const wait = first ? `, first after ${Math.round(first - begin)} ms` : "";
    say(turn, "note", `${tokens} tokens${wait}${rate}${reason === "length" ? ", cut at max tokens" : ""}`);
  } catch (error) {
    if (error.name === "AbortError") say(turn, "note", "stopped");
    else say(turn, "failed", error.message);
  }
  showRunning(null);
  // A turn without an answer is not part of what the model is asked next.
  if (chat) answer ? turns.push({role: "assistant", content: answer}) : turns.pop();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("prompt").value;
  if (running || text.trim() === "") return;
  byId("prompt").value = "";
  send(text);
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  turns = [];
  byId("log").replaceChildren();
});

// ---- The key

function askForKey() {
  byId("login").hidden = false;
  byId("key").focus();
}
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  byId("key").value = "";
  byId("login").hidden = true;
  start();
});

// ---- The server

/** Samples of a page in Prometheus' text format: {name: [{labels, value}]}. */
function samples(text) {
  const out = {};
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    (out[match[1]] ??= []).push({labels, value: Number(match[3].replace("Inf", "Infinity"))});
  }
  return out;
}

const sum = (page, name) => (page[name] ?? []).reduce((all, s) => all + s.value, 0);

function of(page, name, engine) {
  return (page[name] ?? []).find((s) => s.labels.engine === engine)?.value ?? 0;
}

/** The bound below which half of what a histogram has counted lies; null without any. */
function median(page, name) {
  const buckets = (page[name + "_bucket"] ?? [])
    .map((s) => ({bound: Number(s.labels.le.replace("+Inf", "Infinity")), count: s.value}))
    .sort((a, b) => a.bound - b.bound);
  const half = (buckets.at(-1)?.count ?? 0) / 2;
  if (!half) return null;
  let below = {bound: 0, count: 0};
  for (const bucket of buckets) {
    if (bucket.count >= half) {
      if (bucket.bound === Infinity) return below.bound;
      return below.bound + (bucket.bound - below.bound) * (half - below.count) / (bucket.count - below.count);
    }
    below = bucket;
  }
  return null;
}

const time = (s) => s === null ? "–" : s < 1 ? `${(s * 1000).toPrecision(3)} ms` : `${s.toPrecision(3)} s`;

function showReplica(index, page, health) {
  const engine = String(index), group = health.groups[index];
  const box = element("div", "replica");
  const top = element("div", "top");
  top.append(element("span", "", `Group ${index}`),
             element("b", group.alive ? "good" : "bad", group.alive ? "up" : "down"));
  const kv = of(page, "vllm:kv_cache_usage_perc", engine);
  const bar = element("div", "bar");
  bar.append(element("i"));
  bar.firstChild.style.width = `${Math.round(kv * 100)}%`;
  const asked = of(page, "vllm:prefix_cache_queries_total", engine);
  const hits = of(page, "vllm:prefix_cache_hits_total", engine);
  const stages = of(page, "fourfold:group_stages", engine), ranks = of(page, "fourfold:group_ranks", engine);
  box.append(top, bar,
    element("p", "", `KV cache ${(kv * 100).toFixed(1)} %, prefix hits ${asked ? Math.round(hits / asked * 100) : 0} %`),
    element("p", "", `${of(page, "vllm:num_requests_running", engine)} running, ${of(page, "vllm:num_requests_waiting", engine)} waiting`),
    element("p", "", `${ranks} ${ranks === 1 ? "rank" : "ranks"} in ${stages} ${stages === 1 ? "stage" : "stages"}, ${group.steps} steps, ${group.restarts} restarts`));
  if (!group.alive) box.append(element("p", "", group.failure));
  return box;
}

let before = null;  // of the last look

function show(page, health) {
  const now = {at: performance.now(), output: sum(page, "vllm:generation_tokens_total"), prompt: sum(page, "vllm:prompt_tokens_total")};
  if (before) {
    const seconds = (now.at - before.at) / 1000;
    byId("output_rate").textContent = Math.max(0, Math.round((now.output - before.output) / seconds));
    byId("prompt_rate").textContent = Math.max(0, Math.round((now.prompt - before.prompt) / seconds));
  }
  before = now;
  byId("running").textContent = sum(page, "vllm:num_requests_running");
  byId("waiting").textContent = sum(page, "vllm:num_requests_waiting") + sum(page, "fourfold:preparing_requests");
  byId("ttft").textContent = time(median(page, "vllm:time_to_first_token_seconds"));
  byId("tpot").textContent = time(median(page, "vllm:request_time_per_output_token_seconds"));
  byId("replicas").replaceChildren(...health.groups.map((_, i) => showReplica(i, page, health)));
}

function showState(text, good) {
  byId("state").textContent = text;
  byId("state").className = "pill " + (good ? "good" : "bad");
}

let timer = 0;

async function look() {
  try {
    const [metrics, health, ready] = await Promise.all([ask("metrics"), ask("health"), ask("ready")]);
    if (metrics.status === 401) {
      showState("key needed", false);
      return askForKey();
    }
    if (!metrics.ok) throw new Error(await failureOf(metrics));
    show(samples(await metrics.text()), await health.json());
    const state = (await ready.json()).status;
    showState(state, state === "ready");
  } catch {
    showState("not reached", false);
  }
  schedule();
}

/** Looks again in a second; a page that nobody sees asks nothing. */
function schedule() {
  clearTimeout(timer);
  timer = document.hidden ? 0 : setTimeout(look, 1000);
}
document.addEventListener("visibilitychange", schedule);

async function start() {
  clearTimeout(timer);
  before = null;
  try {
    const response = await ask("v1/models");
    if (response.status === 401) {
      showState("key needed", false);
      return askForKey();
    }
    const entry = (await response.json()).data[0];
    model = entry.id;
    byId("model").textContent = `${model}, context ${entry.max_model_len} tokens`;
    document.title = `${model} – fourfold`;
    const chat = await ask("tokenize", {messages: [{role: "user", content: "a"}]});
    if (!chat.ok) byId("mode").value = "completion";
  } catch {
    showState("not reached", false);
    return schedule();
  }
  look();
}

start();
