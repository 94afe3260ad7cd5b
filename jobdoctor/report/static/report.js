"use strict";
(() => {
  const all = () => [...document.querySelectorAll("details")];
  const toggle = document.querySelector("[data-expand]");
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      const open = toggle.getAttribute("aria-pressed") !== "true";
      for (const one of all()) one.open = open;
      toggle.setAttribute("aria-pressed", String(open));
      toggle.textContent = open ? "Collapse all" : "Expand all";
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", () => {
      const code = button.closest("figure").querySelector("code");
      navigator.clipboard.writeText(code.textContent).then(() => {
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      }, () => { button.hidden = true; });
    });
  }
  // A link to a finding opens it, in browsers that do not do so by themselves.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let one = target || null; one; one = one.parentElement) {
      if (one.tagName === "DETAILS") one.open = true;
    }
  };
  addEventListener("hashchange", reveal);
  reveal();
  // Paper has no way to open what is closed.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all().filter((one) => !one.open);
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
