// Looks again where a page says that something is under way, unless somebody is typing in it.
const again = document.querySelector("[data-again]");
if (again) {
  setInterval(() => {
    const busy = document.activeElement && document.activeElement.matches("input, select, textarea");
    if (!busy && !document.hidden) location.reload();
  }, 1000 * Number(again.dataset.again));
}
