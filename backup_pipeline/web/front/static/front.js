// Keeps open what a person has opened when htmx replaces a part of the page. Nothing else of the pages needs a script.
(() => {
  const opened = new Map();
  document.addEventListener("htmx:beforeSwap", () => {
    document.querySelectorAll("details[id]").forEach((one) => opened.set(one.id, one.open));
  });
  document.addEventListener("htmx:afterSwap", () => {
    document.querySelectorAll("details[id]").forEach((one) => {
      if (opened.has(one.id)) one.open = opened.get(one.id);
    });
  });
})();
