// Twelve drawn parts at once: mark what is bad, then all are judged.
import { actionOf, keymap } from "/static/keymap.js";
import { Outbox } from "/static/outbox.js";

const PLACES = "QWERASDFZXCV";
const $ = (id) => document.getElementById(id);
const outbox = new Outbox("review " + document.body.dataset.user, said);
const map = await keymap();
let parts = [], shownAt = 0, shortest = 300, done = [];

function said() {
  $("saved").textContent = `saved ${outbox.saved} / ${outbox.saved + outbox.waiting.filter((entry) => !entry.undo).length}`;
  $("away").textContent = outbox.away ? "▲ " + outbox.away : "";
}

async function ask() {
  try {
    const answer = await fetch("/api/v1/review/next?lane=drawn&n=24", { signal: AbortSignal.timeout(8000) });
    if (answer.status === 401) { outbox.away = "log in again: nothing is lost"; said(); return; }
    const told = await answer.json();
    shortest = told.shortest_ms;
    const judged = outbox.judged();
    parts = told.items.filter((part) => !judged.has(part.id)).slice(0, PLACES.length);
    show();
  } catch { outbox.away = "the station does not answer"; said(); }
}

function show() {
  $("nothing").hidden = parts.length > 0;
  $("cells").replaceChildren(...parts.map((part, i) => {
    const cell = document.createElement("button"), picture = new Image(), key = document.createElement("span");
    picture.src = `/api/v1/inspections/${part.id}/thumb`;
    picture.alt = "part " + (part.part_id || part.seq);
    picture.onerror = () => { picture.onerror = null; picture.src = `/api/v1/inspections/${part.id}/image`; };
    key.textContent = PLACES[i];
    cell.type = "button";
    cell.setAttribute("aria-pressed", "false");
    cell.append(picture, key);
    cell.addEventListener("click", () => mark(i));
    return cell;
  }));
  shownAt = performance.now();
  count();
}

function mark(i) {
  const cell = $("cells").children[i];
  if (!cell) return;
  const bad = cell.getAttribute("aria-pressed") !== "true";
  cell.setAttribute("aria-pressed", String(bad));
  cell.lastChild.textContent = (bad ? "✕ " : "") + PLACES[i];
  count();
}

function count() {
  const bad = document.querySelectorAll("#cells [aria-pressed=true]").length;
  $("confirm").textContent = `Enter: ${parts.length - bad} OK, ${bad} NG`;
  $("confirm").disabled = parts.length === 0;
}

function confirm() {
  const shown = Math.round(performance.now() - shownAt);
  if (!parts.length || shown < shortest) return;
  done = parts.map((part, i) => {
    const bad = $("cells").children[i].getAttribute("aria-pressed") === "true";
    const key = crypto.randomUUID?.() || Date.now().toString(36) + "-" + Math.random().toString(36).slice(2);
    outbox.add({ key, part: part.id, body: { id: part.id, truth: bad ? "defect" : "good", ms_shown: shown, blind: true } });
    return { key, part };
  });
  shownAt = performance.now();
  parts = [];
  show();
  ask();
}

function undo() {
  for (const { key, part } of done) outbox.add({ undo: true, key, part: part.id });
  if (done.length) parts = done.map(({ part }) => part);
  done = [];
  show();
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const i = event.key.length === 1 ? PLACES.indexOf(event.key.toUpperCase()) : -1, action = actionOf(map, event);
  if (i >= 0) mark(i);
  else if (event.key === "Enter") confirm();
  else if (action === "undo") undo();
  else if (action === "leave") location.assign("/review");
  else return;
  event.preventDefault();
});
$("confirm").addEventListener("click", confirm);
$("undo").addEventListener("click", undo);
said();
ask();
setInterval(() => { if (!parts.length) ask(); }, 2000);
document.body.dataset.ready = "yes";
