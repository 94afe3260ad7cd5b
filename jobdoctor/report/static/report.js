"use strict";
(() => {
  const all = () => [...document.querySelectorAll("details")];

  // ------------------------------------------------------------------------------------------------------------ theme
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    // A page from a file may have no storage: then the choice lasts as long as the page.
    try {
      if (value !== undefined) localStorage.setItem("jobdoctor-theme", value);
      return localStorage.getItem("jobdoctor-theme");
    } catch { return null; }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const told = () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.hidden = false;
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    }
    document.dispatchEvent(new Event("themechange"));
  };
  const before = kept();
  if (before === "light" || before === "dark") root.dataset.theme = before;
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      kept(root.dataset.theme);
      told();
    });
  }
  dark.addEventListener("change", told);
  told();

  // --------------------------------------------------------------------------------------------------- open and close
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

  // ------------------------------------------------------------------------------------------------------------- tabs
  const panelOf = (link) => document.getElementById(link.hash.slice(1));
  const choose = (group, chosen) => {
    for (const link of group.querySelectorAll("[data-tab]")) {
      link.setAttribute("aria-current", String(link === chosen));
      panelOf(link).hidden = link !== chosen;
    }
    if (!group.dataset.tabs) document.dispatchEvent(new CustomEvent("exemplar", { detail: chosen.hash.slice(1) }));
  };
  for (const group of document.querySelectorAll("[data-tabs]")) {
    const links = [...group.querySelectorAll("[data-tab]")];
    choose(group, links.find((link) => link.hash === `#by-${group.dataset.tabs}`) || links[0]);
    group.addEventListener("click", (event) => {
      const link = event.target.closest("[data-tab]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      choose(group, link);
      history.replaceState(null, "", link.hash);
    });
  }

  // ------------------------------------------------------------------------------------------------------------ links
  // A link to something that is closed, or behind another tab, opens it.
  const reveal = () => {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { return; }
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let one = target; one; one = one.parentElement) {
      if (one.tagName === "DETAILS") one.open = true;
      const tab = one.id && document.querySelector(`[data-tab][href="#${CSS.escape(one.id)}"]`);
      if (tab) choose(tab.closest("[data-tabs]"), tab);
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  // The same link again does not change the hash, and what it leads to may have been closed.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]:not([data-tab])');
    if (link && link.hash === location.hash) reveal();
  });
  reveal();

  // ------------------------------------------------------------------------------------------------------------- copy
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

  // ------------------------------------------------------------------------------------------------------------- sort
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => {
      const cell = row.cells[column];
      const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
      return Number.isNaN(number) ? cell.textContent.trim() : number;
    };
    heads.forEach((head, column) => {
      if (head.dataset.sort === undefined) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.dataset.sort === "down" ? head.ariaSort !== "descending" : head.ariaSort === "ascending";
        for (const one of heads) one.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => {
          const [a, b] = [value(one, column), value(other, column)];
          const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
  const filter = document.querySelector("[data-filter]");
  if (filter) {
    filter.closest("p").hidden = false;
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of document.querySelectorAll("table[data-sortable] tbody tr")) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      }
    });
  }

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
