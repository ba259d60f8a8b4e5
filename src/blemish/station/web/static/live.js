// The live page: asks /api/v1/live once a second, and covers itself where it is not answered for five.
"use strict";
const WORDS = { good: ["●", "OK"], anomalous: ["✕", "NG"], unknown: ["◆", "UNKNOWN"], error: ["▲", "ERROR"] };
const $ = (id) => document.getElementById(id);
const put = (id, text) => { const node = $(id); if (node.textContent !== text) node.textContent = text; };
const share = (x) => (x === null ? "–" : (100 * x).toFixed(1) + " %");
const local = (iso) => (iso ? new Date(iso).toLocaleTimeString() : "–");
let seq = 0, last = [], heard = performance.now(), why = "the station does not answer";

function show(row) {
  const [sign, word] = WORDS[row.verdict];
  put("sign", sign); put("word", word);
  $("verdict").className = "verdict " + row.verdict;
  put("p", row.p_value === null || row.p_value === undefined ? "–" : row.p_value.toPrecision(2));
  put("ratio", row.score !== null && row.threshold ? (row.score / row.threshold).toFixed(2) + " × limit" : "–");
  put("part", row.part_id || row.name || "–"); put("lot", row.lot || "–"); put("source", row.source);
  put("at", local(row.judged_at));
  $("shown").href = "/inspections/" + row.id;
  const picture = $("picture");
  picture.alt = word + ", " + (row.part_id || row.name || "");
  picture.hidden = row.state !== "judged";
  if (row.state === "judged") picture.src = "/api/v1/inspections/" + row.id + "/thumb";
}

function list(node, items) { node.replaceChildren(...items); }

function update(told) {
  if (told.inspections.length) {
    seq = told.seq;
    last = last.concat(told.inspections).slice(-12);
    show(last[last.length - 1]);
    list($("last"), last.map((row) => {
      const item = document.createElement("li"), link = document.createElement("a");
      const [sign, word] = WORDS[row.verdict];
      link.href = "/inspections/" + row.id; link.className = row.verdict; link.textContent = sign;
      link.title = word + " " + (row.part_id || row.name || row.seq); link.setAttribute("aria-label", link.title);
      item.append(link); return item;
    }));
  }
  const c = told.counters;
  put("total", c.total.toLocaleString()); put("share", share(c.anomalous_share));
  put("unknown", String(c.unknown)); put("errors", String(c.error)); put("waiting", String(c.waiting));
  put("live", told.deployments.map((d) => d.source + ": " + d.model + ", " + (d.promise || "no promise")).join(" · ") || "no model is live");
  list($("alarms"), told.alarms.map((alarm) => {
    const item = document.createElement("li");
    item.className = alarm.level;
    item.textContent = "▲ " + alarm.text + (alarm.remedy ? ": " + alarm.remedy : "");
    return item;
  }));
  const silent = told.heartbeat.worker_silent_ms;
  if (silent !== null) heard = performance.now() - silent;
  why = "the worker does not answer: nothing is judged";
}

function cover() {
  const silent = (performance.now() - heard) / 1000;
  $("cover").hidden = silent < 5;
  put("why", why + " (" + Math.round(silent) + " s)");
  put("state", silent < 5 ? "● live" : "▲ no connection");
  put("clock", new Date().toLocaleTimeString());
}

async function ask() {
  try {
    const answer = await fetch("/api/v1/live?limit=12&after_seq=" + seq, { signal: AbortSignal.timeout(4000) });
    if (answer.status === 401) { location.assign("/login"); return; }
    if (answer.ok) update(await answer.json());
    else why = "the station answers with an error";
  } catch { why = "the station does not answer"; }
  setTimeout(ask, 1000);
}
ask();
setInterval(cover, 500);
