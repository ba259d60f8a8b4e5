// Which action a key stands for. Digits and the keypad go by their place (event.code), letters by what they say.
export async function keymap() {
  const usual = await (await fetch("/static/keys.json")).json();
  const own = JSON.parse(document.body.dataset.keys || "{}");
  const map = new Map();
  for (const [action, keys] of Object.entries({ ...usual, ...own })) for (const key of keys) map.set(key, action);
  return map;
}

export function actionOf(map, event) {
  const field = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.repeat || field || event.altKey || event.metaKey) return null;
  if (event.ctrlKey) return map.get("Control+" + event.key.toLowerCase()) || null;
  return map.get(event.code) || map.get(event.key.length === 1 ? event.key.toLowerCase() : event.key) || null;
}
