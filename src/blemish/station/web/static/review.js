// One picture after the other: a key judges and goes on. What is judged lies in the outbox before the next one shows.
import { actionOf, keymap } from "/static/keymap.js";
import { Outbox } from "/static/outbox.js";

const AHEAD = 6;
const $ = (id) => document.getElementById(id);
const put = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
const lane = document.body.dataset.lane;
const types = [...document.querySelectorAll("[data-type]")].map((node) => node.dataset.type);
const outbox = new Outbox("review " + document.body.dataset.user, said);
const map = await keymap();
const done = []; // of this page, the last one at the end: what undo takes back
let parts = [], at = 0, shortest = 300, counts = {}, shownAt = 0, asking = false, scale = 1, shift = [0, 0], heat = false;

function said() {
  const open = outbox.waiting.length;
  put("saved", `saved ${outbox.saved} / ${outbox.saved + outbox.waiting.filter((entry) => !entry.undo).length}`);
  put("away", outbox.away && open ? `▲ ${outbox.away}; ${open} wait here` : outbox.away ? "▲ " + outbox.away : "");
  $("again").hidden = !outbox.away.startsWith("log in");
}

async function ask() {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch(`/api/v1/review/next?lane=${lane}&n=${2 * AHEAD}`, { signal: AbortSignal.timeout(8000) });
    if (answer.status === 401) { outbox.away = "log in again: nothing is lost"; said(); return; }
    const told = await answer.json();
    counts = told.waiting;
    shortest = told.shortest_ms;
    const known = new Set([...parts.map((part) => part.id), ...outbox.judged().keys()]);
    for (const part of told.items) {
      if (known.has(part.id)) continue;
      part.picture = new Image();
      part.picture.src = `/api/v1/inspections/${part.id}/image`;
      part.picture.onerror = () => { part.picture.onerror = null; part.picture.src = `/api/v1/inspections/${part.id}/thumb`; };
      parts.push(part);
    }
    if (!shownAt) show();
    rest();
  } catch { outbox.away = "the station does not answer"; said(); } finally { asking = false; }
}

function rest() {
  const left = Math.max((counts[lane] || 0) - outbox.judged().size, parts.length);
  put("left", `${left} left`);
  $("nothing").hidden = parts.length > 0;
}

async function show() {
  const part = parts[at];
  rest();
  if (!part) { shownAt = 0; $("stage").replaceChildren(); for (const id of ["part", "time", "verdict"]) put(id, ""); return; }
  scale = 1; shift = [0, 0]; heat = false;
  part.picture.alt = "part " + (part.part_id || part.seq);
  await part.picture.decode().catch(() => {});
  if (parts[at] !== part) return;
  $("stage").replaceChildren(part.picture);
  place();
  put("part", [part.part_id || part.seq, part.source].join(", "));
  put("time", [new Date(part.at).toLocaleString(), part.lot && "lot " + part.lot].filter(Boolean).join(", "));
  put("verdict", part.blind ? "verdict hidden until judged" : `${part.pred_label}, ${(part.score / part.threshold).toFixed(2)} × limit`);
  shownAt = performance.now();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (performance.getEntriesByName("key").length) performance.measure("judged", "key");
    performance.clearMarks("key");
  }));
}

function place() {
  const picture = parts[at]?.picture;
  if (picture) picture.style.transform = `translate(${shift[0]}px, ${shift[1]}px) scale(${scale})`;
}

function judge(truth, type = null) {
  const part = parts[at], shown = performance.now() - shownAt;
  if (!part || !shownAt || shown < shortest) return;
  performance.mark("key");
  const key = crypto.randomUUID?.() || Date.now().toString(36) + "-" + Math.random().toString(36).slice(2);
  const body = { id: part.id, truth, type, comment: $("words").value || null, ms_shown: Math.round(shown), blind: part.blind };
  outbox.add({ key, part: part.id, body });
  done.push({ key, part });
  $("words").value = "";
  parts.splice(at, 1);
  at = Math.min(at, Math.max(parts.length - 1, 0));
  shownAt = 0;
  show();
  if (parts.length < AHEAD) ask();
}

function undo() {
  const last = done.pop();
  if (!last) return;
  outbox.add({ undo: true, key: last.key, part: last.part.id });
  parts.splice(at, 0, last.part);
  shownAt = 0;
  show();
}

async function overlay() {
  const part = parts[at];
  if (!part) return;
  if (part.blind) { put("verdict", "the map is shown once the part is judged"); return; }
  heat = !heat;
  $("stage").querySelector("canvas")?.remove();
  if (!heat) return;
  const grey = new Image();
  grey.src = `/api/v1/inspections/${part.id}/map`;
  try { await grey.decode(); } catch { put("verdict", "there is no map of this part"); return; }
  const canvas = document.createElement("canvas"), to = canvas.getContext("2d");
  canvas.width = grey.naturalWidth; canvas.height = grey.naturalHeight;
  to.drawImage(grey, 0, 0);
  const data = to.getImageData(0, 0, canvas.width, canvas.height), rgba = data.data;
  for (let i = 0; i < rgba.length; i += 4) { // a scale of its own for no picture: 128 is the threshold
    const over = rgba[i] / 128;
    [rgba[i], rgba[i + 1], rgba[i + 2], rgba[i + 3]] = over < 0.5 ? [0, 0, 0, 0] : [255, over < 1 ? 200 : 90, 40, Math.min(220, 130 * over)];
  }
  to.putImageData(data, 0, 0);
  canvas.setAttribute("aria-label", "anomaly map");
  if (heat && parts[at] === part) $("stage").append(canvas);
}

const ACTIONS = {
  good: () => judge("good"), unsure: () => judge("unsure"), defect: () => judge("defect"), undo,
  later: () => { if (at < parts.length - 1) { at += 1; show(); } },
  earlier: () => { if (at > 0) { at -= 1; show(); } },
  map: overlay,
  plain: () => { $("stage").classList.add("plain"); },
  closer: () => { scale = Math.min(16, scale * 1.5); place(); },
  farther: () => { scale = Math.max(1, scale / 1.5); place(); },
  fit: () => { const p = parts[at]?.picture; if (p) { scale = scale === 1 ? Math.max(1, p.naturalWidth / p.clientWidth) : 1; shift = [0, 0]; place(); } },
  comment: () => $("words").focus(),
  grid: () => location.assign("/review/grid"),
  help: () => { $("help").open ? $("help").close() : $("help").showModal(); },
  leave: () => { $("help").open ? $("help").close() : location.assign("/"); },
};
types.forEach((type, i) => { ACTIONS["type" + (i + 1)] = () => judge("defect", type); });

document.addEventListener("keydown", (event) => {
  if (event.target === $("words") && (event.key === "Enter" || event.key === "Escape")) { $("words").blur(); event.preventDefault(); return; }
  const action = ACTIONS[actionOf(map, event)];
  if (action) { event.preventDefault(); action(); }
});
document.addEventListener("keyup", (event) => { if (event.code === "Space") $("stage").classList.remove("plain"); });
for (const node of document.querySelectorAll("[data-action]")) node.addEventListener("click", () => ACTIONS[node.dataset.action]());
let from = null;
$("stage").addEventListener("pointerdown", (event) => { from = [event.clientX - shift[0], event.clientY - shift[1]]; event.preventDefault(); });
addEventListener("pointermove", (event) => { if (from && scale > 1) { shift = [event.clientX - from[0], event.clientY - from[1]]; place(); } });
addEventListener("pointerup", () => { from = null; });
said();
ask();
setInterval(() => { if (parts.length < AHEAD) ask(); }, 2000);
document.body.dataset.ready = "yes";
