// Judgements on their way: kept in the browser before the next picture is shown, sent in their order, and sent again
// until the station has answered. The key of a judgement makes it the same one however often it arrives.
const PAUSE = 1500;

export class Outbox {
  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    const kept = JSON.parse(localStorage.getItem(name) || "{}");
    this.waiting = kept.waiting || [];
    this.numbers = kept.numbers || {}; // of judgements by key: what an undo names
    this.saved = 0;
    this.away = "";
    this.running = false;
    this.send();
  }

  keep() {
    localStorage.setItem(this.name, JSON.stringify({ waiting: this.waiting, numbers: this.numbers }));
  }

  add(entry) {
    this.waiting.push(entry);
    this.keep();
    this.changed();
    this.send();
  }

  judged() { // parts that wait here as judged: they are not shown again
    const parts = new Map();
    for (const entry of this.waiting) entry.undo ? parts.delete(entry.part) : parts.set(entry.part, entry.key);
    return parts;
  }

  async send() {
    if (this.running) return;
    this.running = true;
    while (this.waiting.length) {
      const entry = this.waiting[0];
      let answer = null;
      try {
        answer = entry.undo
          ? await fetch("/api/v1/reviews/" + this.numbers[entry.key], { method: "DELETE", signal: AbortSignal.timeout(8000) })
          : await fetch("/api/v1/reviews/" + entry.key, {
              method: "PUT", body: JSON.stringify(entry.body), headers: { "Content-Type": "application/json" },
              signal: AbortSignal.timeout(8000),
            });
      } catch { /* it does not answer: see below */ }
      if (answer === null || answer.status >= 500 || answer.status === 429) {
        this.away = "the station does not answer";
      } else if (answer.status === 401) {
        this.away = "log in again: nothing is lost";
      } else {
        const told = await answer.json().catch(() => ({}));
        if (answer.ok && !entry.undo) { this.numbers[entry.key] = told.id; this.saved += 1; }
        if (answer.ok && entry.undo) { delete this.numbers[entry.key]; this.saved -= 1; }
        this.away = answer.ok ? "" : "refused: " + (told.detail || told.title || answer.status);
        this.waiting.shift();
        this.keep();
        this.changed();
        continue;
      }
      this.changed();
      await new Promise((done) => setTimeout(done, PAUSE));
    }
    this.running = false;
  }
}
