// The profile as a flame graph: callers above what they call, as wide as the time spent.
(() => {
  const { element, data, duration, share, button, count } = charts;
  const ROW = 20;
  /** Narrower than this many pixels, a frame is neither seen nor hit. */
  const LEAST = 2;

  /** Frames of the speedscope file (opened and closed in order) as a tree. Times are in ns. */
  const tree = (profile, application) => {
    const { frames } = profile.shared;
    const root = { name: "", children: [], start: 0, end: profile.profiles[0].endValue, parent: null, depth: -1 };
    let open = root;
    for (const event of profile.profiles[0].events) {
      if (event.type === "O") {
        const { name, file, line } = frames[event.frame];
        const node = { name, where: file ? `${file}${line ? `:${line}` : ""}` : "", own: application.has(event.frame), start: event.at, end: event.at, children: [], parent: open, depth: open.depth + 1 };
        open.children.push(node);
        open = node;
      } else {
        open.end = event.at;
        open = open.parent;
      }
    }
    return root;
  };
  /** The tree without library frames: what they call moves up to the nearest frame of the application. */
  const applicationOnly = (root) => {
    const copy = { ...root, children: [] };
    const pending = [[root, copy]];
    while (pending.length) {
      const [node, onto] = pending.pop();
      for (const child of node.children) {
        if (!child.own) pending.push([child, onto]);
        else {
          const kept = { ...child, children: [], parent: onto, depth: onto.depth + 1 };
          onto.children.push(kept);
          pending.push([child, kept]);
        }
      }
      onto.children.sort((one, other) => one.start - other.start);
    }
    return copy;
  };
  const all = (root) => {
    const found = [];
    const pending = [...root.children].reverse();
    while (pending.length) {
      const node = pending.pop();
      found.push(node);
      pending.push(...[...node.children].reverse());
    }
    return found;
  };
  /** Six shades by file, so that neighbours differ and one file looks the same everywhere. */
  const shade = (where) => {
    let sum = 0;
    for (const letter of where.replace(/:\d+$/, "")) sum = (sum * 31 + letter.charCodeAt(0)) % 9973;
    return sum % 6;
  };

  class Flame {
    constructor(place) {
      this.place = place;
      this.name = place.dataset.flame;
      const { speedscope, application, note, file } = data(this.name);
      this.speedscope = speedscope;
      this.file = file;
      this.whole = tree(speedscope, new Set(application));
      this.total = this.whole.end || 1;
      this.hits = new Set();
      this.axis = new charts.Axis(0, this.total, 1);
      this.tools(note, this.whole.children.length > 0 && application.length > 0 && application.length < speedscope.shared.frames.length);
      this.graph = element("div", "flame");
      this.graph.tabIndex = 0;
      this.graph.setAttribute("role", "tree");
      this.graph.setAttribute("aria-label", "Flame graph. Down goes to what is called, up to the caller, right and left to the neighbours, Enter zooms, Escape shows all");
      place.append(this.graph);
      this.draw = charts.soon(() => this.paint());
      this.axis.watch(() => {
        // Fingers zoom to where no frame begins or ends.
        if (this.axis.min !== this.zoomed.start || this.axis.max !== this.zoomed.end) this.zoomed = this.root;
        this.paint();
      });
      this.use(this.whole);
      this.listen();
      charts.onWidth(this.graph, (width) => {
        this.width = width;
        this.paint();
      });
      place.dataset.drawn = "";
    }

    tools(note, mixed) {
      const bar = element("div", "tools");
      const label = element("label", "search");
      this.search = element("input");
      this.search.type = "search";
      this.search.placeholder = "function or file";
      label.append(element("span", "", "Search"), this.search);
      this.found = element("span", "readout muted");
      this.found.setAttribute("role", "status");
      bar.append(label, button("All", "All of the profile", () => this.zoom(this.root)));
      if (mixed) {
        const only = button("Application only", "", () => {
          const on = only.getAttribute("aria-pressed") !== "true";
          only.setAttribute("aria-pressed", String(on));
          this.use(on ? applicationOnly(this.whole) : this.whole);
        });
        only.setAttribute("aria-pressed", "false");
        bar.append(only);
      }
      bar.append(button("Download for speedscope", "", () => this.download()), this.found);
      this.place.append(bar);
      if (note) this.place.append(element("p", "muted note", note));
      this.search.addEventListener("input", () => this.seek());
      this.search.addEventListener("keydown", (event) => {
        if (event.key === "Escape") {
          this.search.value = "";
          this.seek();
        } else if (event.key === "Enter" && this.hits.size) {
          event.preventDefault();
          this.graph.focus();
          this.choose([...this.hits].reduce((one, other) => (other.end - other.start > one.end - one.start ? other : one)));
        }
      });
    }

    use(root) {
      this.root = root;
      this.zoomed = root;
      this.axis.reset();
      this.nodes = all(root);
      this.nodes.forEach((node, at) => {
        node.at = at;
      });
      this.selected = this.nodes[0] || null;
      this.depth = this.nodes.reduce((most, node) => Math.max(most, node.depth), 0) + 1;
      this.graph.style.height = `${this.depth * ROW}px`;
      this.seek();
    }

    seek() {
      const text = this.search.value.trim().toLowerCase();
      this.hits = new Set(text ? this.nodes.filter((node) => `${node.name} ${node.where}`.toLowerCase().includes(text)) : []);
      // A frame that calls itself is counted once.
      let ns = 0;
      for (const node of this.hits) {
        let above = node.parent;
        while (above && !this.hits.has(above)) above = above.parent;
        if (!above) ns += node.end - node.start;
      }
      this.found.textContent = text ? `${count(this.hits.size, "frame")}, ${share(ns / this.total)} of the time` : "";
      this.searching = Boolean(text);
      this.draw();
    }

    words(node) {
      const ns = node.end - node.start;
      return `${node.name}, ${duration(ns / 1e6)}, ${share(ns / this.total)}${node.where ? `, ${node.where}` : ""}${node.own ? "" : ", library"}`;
    }

    paint() {
      if (!this.width) return;
      const from = this.axis.min;
      const scale = this.width / Math.max(1, this.axis.max - from);
      const above = new Set();
      for (let node = this.zoomed; node; node = node.parent) above.add(node);
      const made = document.createDocumentFragment();
      for (const node of this.nodes) {
        const left = Math.max(0, (node.start - from) * scale);
        const right = Math.min(this.width, (node.end - from) * scale);
        if (right - left < LEAST && node !== this.selected) continue;
        const box = element("div", `frame ${node.own ? `own f${shade(node.where)}` : "library"}`, right - left > 28 ? node.name : "");
        if (above.has(node) && node !== this.zoomed) box.classList.add("above");
        if (this.searching) box.classList.add(this.hits.has(node) ? "hit" : "miss");
        box.id = `${this.name}-frame-${node.at}`;
        box.dataset.node = node.at;
        box.style.left = `${Math.min(left, this.width - 1)}px`;
        box.style.width = `${Math.max(1, right - left - 1)}px`;
        box.style.top = `${node.depth * ROW}px`;
        box.setAttribute("role", "treeitem");
        box.setAttribute("aria-level", node.depth + 1);
        box.setAttribute("aria-label", this.words(node));
        box.setAttribute("aria-selected", String(node === this.selected));
        made.append(box);
      }
      this.graph.replaceChildren(made);
      this.graph.setAttribute("aria-activedescendant", this.selected ? `${this.name}-frame-${this.selected.at}` : "");
    }

    choose(node) {
      if (!node) return;
      this.selected = node;
      // What lies outside of the part in sight could not be seen as chosen.
      if (node.start < this.axis.min || node.end > this.axis.max) this.look(node);
      this.paint();
      this.graph.querySelector('[aria-selected="true"]').scrollIntoView({ block: "nearest", behavior: "instant" });
    }
    /** The window on this frame. */
    look(node) {
      this.zoomed = node;
      this.axis.set(node.start, Math.max(node.end, node.start + 1));
    }
    zoom(node) {
      this.look(node);
      if (node.depth >= 0) this.selected = node;
      this.draw();
    }

    keydown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.selected) return;
      const node = this.selected;
      const among = node.parent.children;
      const acts = {
        ArrowDown: () => this.choose([...node.children].sort((one, other) => other.end - other.start - one.end + one.start)[0]),
        ArrowUp: () => node.depth > 0 && this.choose(node.parent),
        ArrowRight: () => this.choose(among[among.indexOf(node) + 1]), ArrowLeft: () => this.choose(among[among.indexOf(node) - 1]),
        Home: () => this.choose(this.nodes[0]), Enter: () => this.zoom(node), " ": () => this.zoom(node),
        "+": () => this.zoom(node), "-": () => this.zoom(this.zoomed.parent || this.root), Escape: () => this.zoom(this.root), 0: () => this.zoom(this.root),
        "/": () => this.search.focus(),
      };
      const act = acts[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    }

    listen() {
      const node = (event) => {
        const box = event.target.closest("[data-node]");
        return box ? this.nodes[box.dataset.node] : null;
      };
      charts.fingers(this.graph, this.axis, (event) => event.clientX - this.graph.getBoundingClientRect().left, () => this.width);
      this.graph.addEventListener("keydown", (event) => this.keydown(event));
      this.graph.addEventListener("click", (event) => {
        const hit = node(event);
        this.zoom(hit && hit === this.zoomed ? this.root : hit || this.root);
        this.tell(event.pointerType === "touch" ? hit : null, event);
      });
      this.graph.addEventListener("pointermove", (event) => this.tell(node(event), event));
      this.graph.addEventListener("pointerleave", (event) => {
        if (event.pointerType !== "touch") charts.hush();
      });
    }

    tell(node, event) {
      if (!node) return charts.hush();
      const ns = node.end - node.start;
      const below = node.children.reduce((sum, child) => sum + child.end - child.start, 0);
      return charts.say([
        ["tip-title", `${node.name}: ${duration(ns / 1e6)}, ${share(ns / this.total)}`],
        ["", `${duration(Math.max(0, ns - below) / 1e6)} in itself${node.own ? "" : ", library"}`], node.where && ["tip-code", node.where],
      ], event.clientX, event.clientY);
    }

    download() {
      const link = element("a");
      const url = URL.createObjectURL(new Blob([JSON.stringify(this.speedscope)], { type: "application/json" }));
      link.href = url;
      link.download = this.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }
  }

  for (const place of document.querySelectorAll("[data-flame]")) {
    let made = false;
    charts.onWidth(place, () => {
      if (made) return;
      made = true;
      new Flame(place);
    });
  }
  // One profile is in sight: that of the execution that is looked at, when it has one.
  const follow = (key) => {
    const places = [...document.querySelectorAll("[data-flame-of]")];
    const chosen = places.find((place) => place.dataset.flameOf === key);
    if (chosen) for (const place of places) place.hidden = place !== chosen;
  };
  document.addEventListener("exemplar", (event) => follow(event.detail));
  const before = document.querySelector("#executions .panel:not([hidden])");
  if (before) follow(before.id);
})();
