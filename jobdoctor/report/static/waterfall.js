// Every call of an execution on one axis: rows that open, of which only those in sight exist.
charts.Waterfall = class {
  static HEAD = 40;
  /** Below this width, a row's name stands above its calls and not beside them. */
  static NARROW = 560;

  constructor(place, picture, axis, name) {
    const { element } = charts;
    this.axis = axis;
    this.picture = picture;
    this.name = name;
    this.runs = picture.runs.map((run, at) => this.read(run, at));
    this.selected = 0;
    this.open = new Set();
    this.drag = null;
    this.clicked = -Infinity;
    this.head = element("canvas", "wf-head");
    this.head.setAttribute("aria-hidden", "true");
    this.scroller = element("div", "wf-rows");
    this.scroller.tabIndex = 0;
    this.scroller.setAttribute("role", "tree");
    this.scroller.setAttribute("aria-label", "Calls over time. Up and down choose a row, right and left open and close it, plus and minus zoom, A and D pan, 0 shows all");
    this.canvas = element("canvas", "wf-bars");
    this.canvas.setAttribute("aria-hidden", "true");
    this.space = element("div", "wf-space");
    this.space.setAttribute("role", "none");
    this.scroller.append(this.canvas, this.space);
    place.append(this.head, this.scroller);
    this.draw = charts.soon(() => this.paint());
    this.list();
    this.listen();
    charts.onWidth(place, (width) => this.resize(width));
    axis.watch(this.draw);
    charts.repaints.add(this.draw);
  }

  /** Columns of numbers to places on the axis. */
  read(run, at) {
    const starts = new Float64Array(run.at.length);
    let before = 0;
    for (let place = 0; place < starts.length; place += 1) starts[place] = before += run.at[place];
    const [channel, label, callsite, code, target, relationship] = this.picture.shapes[run.s || 0];
    return {
      at, starts, lengths: run.us || new Array(starts.length).fill(0), channel, label, callsite, code, target, relationship,
      thread: run.t || 0, calls: run.n || 0, total: run.total || 0, longest: run.max || 0, different: run.p || 0,
      errors: run.e || 0, inTransaction: run.x || 0, failed: new Set(run.bad || []), counts: run.of || null,
      flying: at === this.picture.inFlight ? starts.length - 1 : -1,
    };
  }

  /** Rows in order: phases, then threads with their runs, then the calls of those that are open. */
  list() {
    const threads = [...new Set(this.runs.map((run) => run.thread))].sort((one, other) => one - other);
    const rows = this.picture.phases.length ? [{ kind: "phases", level: 1 }] : [];
    if (this.picture.blocked.length) rows.push({ kind: "blocked", level: 1 });
    for (const thread of threads) {
      if (threads.length > 1) rows.push({ kind: "thread", thread, level: 1 });
      for (const run of this.runs) {
        if (run.thread !== thread) continue;
        const opens = run.starts.length > 1;
        rows.push({ kind: "run", run, opens, bar: opens ? -1 : 0, level: threads.length > 1 ? 2 : 1 });
        if (opens && this.open.has(run.at)) {
          for (let bar = 0; bar < run.starts.length; bar += 1) rows.push({ kind: "call", run, bar, level: threads.length > 1 ? 3 : 2 });
        }
      }
    }
    this.rows = rows;
    this.selected = Math.min(this.selected, Math.max(0, rows.length - 1));
  }

  resize(width) {
    this.width = width;
    this.narrow = width < this.constructor.NARROW;
    this.row = this.narrow ? 40 : 24;
    this.over = this.row - 24; // room for the name above the bars
    this.gutter = this.narrow ? 0 : Math.max(150, Math.min(380, Math.round(width * 0.36)));
    this.scroller.classList.toggle("narrow", this.narrow);
    this.space.style.height = `${this.rows.length * this.row}px`;
    this.height = Math.min(this.rows.length * this.row, 480);
    this.scroller.style.height = `${this.height}px`;
    this.room = Math.max(40, this.scroller.clientWidth - this.gutter - (this.narrow ? 0 : 76));
    this.paint();
  }

  x(at) {
    return ((at - this.axis.min) / (this.axis.max - this.axis.min)) * this.room;
  }
  time(x) {
    return this.axis.min + (x / this.room) * (this.axis.max - this.axis.min);
  }

  paint() {
    if (!this.width) return;
    const ROW = this.row;
    this.paintHead();
    const pen = charts.surface(this.canvas, this.room, this.height);
    this.canvas.style.marginLeft = `${this.gutter}px`;
    this.canvas.style.marginBottom = `-${this.height}px`;
    const top = this.scroller.scrollTop;
    const first = Math.max(0, Math.floor(top / ROW));
    const last = Math.min(this.rows.length, Math.ceil((top + this.height) / ROW));
    pen.fillStyle = charts.colour("line");
    for (const place of charts.ticks(this.axis.min, this.axis.max, this.room / 110)[0]) pen.fillRect(Math.round(this.x(place)), 0, 1, this.height);
    for (let index = first; index < last; index += 1) this.bars(pen, this.rows[index], index * ROW - top + this.over);
    this.cross(pen, this.height);
    this.labels(first, last);
  }

  cross(pen, height) {
    const { axis, drag } = this;
    if (drag && drag.moved && !drag.pan) {
      pen.fillStyle = charts.colour("accent");
      pen.globalAlpha = 0.16;
      pen.fillRect(Math.min(drag.x, drag.to), 0, Math.abs(drag.to - drag.x), height);
      pen.globalAlpha = 1;
    }
    if (axis.at !== null && axis.at >= axis.min && axis.at <= axis.max) {
      pen.fillStyle = charts.colour("muted");
      pen.fillRect(Math.round(this.x(axis.at)), 0, 1, height);
    }
  }

  /** The whole execution with its phases and the part in sight; below it the ticks of that part. */
  paintHead() {
    const { axis, picture, gutter, room } = this;
    const { HEAD } = this.constructor;
    const pen = charts.surface(this.head, this.width, HEAD);
    const whole = (at) => gutter + ((at - axis.from) / (axis.to - axis.from)) * room;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    picture.phases.forEach(([name, start, length], at) => {
      const [left, right] = [whole(start), whole(start + length)];
      pen.globalAlpha = at % 2 ? 0.32 : 0.2;
      pen.fillStyle = charts.colour("muted");
      pen.fillRect(left, 2, Math.max(1, right - left), 14);
      pen.globalAlpha = 1;
      pen.fillStyle = charts.colour("ink");
      if (pen.measureText(name).width < right - left - 8) pen.fillText(name, left + 4, 9.5);
    });
    pen.strokeStyle = charts.colour("accent");
    pen.lineWidth = 2;
    pen.strokeRect(whole(axis.min), 1, Math.max(2, whole(axis.max) - whole(axis.min)), 16);
    const [places, step] = charts.ticks(axis.min, axis.max, room / 110);
    pen.fillStyle = charts.colour("muted");
    for (const place of places) {
      const x = gutter + this.x(place);
      const text = charts.tick(place, step);
      const wide = pen.measureText(text).width;
      if (x + wide + 4 < this.width) pen.fillText(text, x + 4, 30);
      pen.fillRect(Math.round(x), 24, 1, HEAD - 24);
    }
  }

  bars(pen, row, y) {
    const ROW = 24;
    if (row.kind === "thread") return undefined;
    if (row.kind === "phases") {
      this.picture.phases.forEach(([, start, length], at) => {
        const [left, right] = [Math.max(-2, this.x(start)), Math.min(this.room + 2, this.x(start + length))];
        if (right < 0 || left > this.room) return;
        pen.globalAlpha = at % 2 ? 0.75 : 0.45;
        pen.fillStyle = charts.colour("muted");
        pen.fillRect(left, y + 6, Math.max(1, right - left), ROW - 12);
        pen.globalAlpha = 1;
      });
      return undefined;
    }
    if (row.kind === "blocked") {
      pen.fillStyle = charts.colour("lock");
      for (const [start, length] of this.picture.blocked) {
        const [left, right] = [Math.max(-2, this.x(start)), Math.min(this.room + 2, this.x(start + length))];
        if (right > 0 && left < this.room) pen.fillRect(left, y + 7, Math.max(1.5, right - left), ROW - 14);
      }
      return undefined;
    }
    const { run } = row;
    const [from, to] = row.bar < 0 ? [0, run.starts.length] : [row.bar, row.bar + 1];
    const scale = this.room / (this.axis.max - this.axis.min);
    const bad = [];
    if (run.starts[from] > this.axis.max) return this.beyond(pen, y, this.room - 4, -6);
    if (run.starts[to - 1] + run.lengths[to - 1] < this.axis.min) return this.beyond(pen, y, 4, 6);
    pen.fillStyle = charts.channel(run.channel);
    let [left, right] = [-1, -1];
    for (let bar = from; bar < to; bar += 1) {
      const start = (run.starts[bar] - this.axis.min) * scale;
      const end = start + Math.max(1.5, run.lengths[bar] * scale);
      if (end < 0 || start > this.room) continue;
      if (run.failed.has(bar) || bar === run.flying) bad.push([start, end, bar]);
      // What falls into the pixel before it is drawn with it: thousands of calls are a few hundred rectangles.
      if (start - right > 0.75) {
        if (right > 0) pen.fillRect(left, y + 5, right - left, ROW - 10);
        left = Math.max(-2, start);
        right = Math.min(this.room + 2, end);
      } else right = Math.max(right, Math.min(this.room + 2, end));
    }
    if (right > 0) pen.fillRect(left, y + 5, right - left, ROW - 10);
    for (const [start, end, bar] of bad) this.mark(pen, Math.max(-2, start), Math.min(this.room, end), y, bar === run.flying);
    return undefined;
  }

  /** An arrow at the edge: what the row is about lies out of sight, on this side. */
  beyond(pen, y, x, by) {
    pen.fillStyle = charts.colour("muted");
    pen.beginPath();
    pen.moveTo(x, y + 12);
    pen.lineTo(x + by, y + 8);
    pen.lineTo(x + by, y + 16);
    pen.fill();
  }

  /** A failed call has a base line in red; the one that never returned is striped, and open at its end. */
  mark(pen, left, right, y, flying) {
    const ROW = 24;
    pen.fillStyle = charts.colour("critical");
    const wide = Math.max(2, right - left);
    if (!flying) {
      pen.fillRect(left, y + ROW - 8, wide, 4);
      return;
    }
    pen.fillRect(left, y + 3, wide, 2);
    pen.fillRect(left, y + ROW - 5, wide, 2);
    for (let x = left + 3; x < left + wide; x += 8) pen.fillRect(x, y + 5, Math.min(3, left + wide - x), ROW - 10);
  }

  blockedMs() {
    return this.picture.blocked.reduce((sum, [, length]) => sum + length, 0) / 1000;
  }

  words(row) {
    const { duration, count, number } = charts;
    if (row.kind === "phases") return `Phases: ${this.picture.phases.map(([name, , length]) => `${name} ${duration(length / 1000)}`).join(", ")}`;
    if (row.kind === "blocked") return `${count(this.picture.blocked.length, "wait")} for locks, ${duration(this.blockedMs())} together`;
    if (row.kind === "thread") return row.thread ? `Thread ${row.thread}` : "The job's own thread";
    const { run } = row;
    if (row.bar >= 0) {
      const calls = run.counts ? run.counts[row.bar] : 1;
      const state = row.bar === run.flying ? ", in flight: it never returned" : run.failed.has(row.bar) ? ", failed" : "";
      const many = calls > 1 ? `${number(calls)} calls of ` : "";
      return `${many}${run.label}, ${duration(run.lengths[row.bar] / 1000)} from ${duration(run.starts[row.bar] / 1000)}${state}, at ${run.callsite}`;
    }
    return `${count(run.calls, "call")} of ${run.label}, ${duration(run.total / 1000)} together${run.flying >= 0 ? ", the last one in flight" : ""}, at ${run.callsite}`;
  }

  labels(first, last) {
    const ROW = this.row;
    const made = document.createDocumentFragment();
    // The chosen one exists wherever the rows have been scrolled to: it is what the keyboard is at.
    const indexes = [];
    for (let index = first; index < last; index += 1) indexes.push(index);
    if (this.rows.length && (this.selected < first || this.selected >= last)) indexes.push(this.selected);
    for (const index of indexes) made.append(this.label(this.rows[index], index, index * ROW));
    this.space.replaceChildren(made);
    this.scroller.setAttribute("aria-activedescendant", this.rows.length ? `${this.name}-row-${this.selected}` : "");
  }

  label(row, index, y) {
    const { element, duration, number } = charts;
    const line = element("div", `wf-row wf-${row.kind}`);
    line.id = `${this.name}-row-${index}`;
    line.dataset.row = index;
    line.style.top = `${y}px`;
    line.setAttribute("role", "treeitem");
    line.setAttribute("aria-level", row.level);
    line.setAttribute("aria-selected", String(index === this.selected));
    if (row.opens) line.setAttribute("aria-expanded", String(this.open.has(row.run.at)));
    const label = element("span", `wf-label wf-level-${row.level}`);
    line.style.height = `${this.row}px`;
    label.style.width = this.narrow ? `${this.room - 64}px` : `${this.gutter}px`;
    let time = "";
    if (row.kind === "phases") {
      label.append(element("span", "wf-text", "Phases"));
      time = duration((this.axis.to - this.axis.from) / 1000);
    } else if (row.kind === "blocked") {
      label.append(element("span", "wf-text", "Waits for locks"));
      time = duration(this.blockedMs());
    } else if (row.kind === "thread") label.append(element("span", "wf-text", this.words(row)));
    else {
      const { run } = row;
      label.append(element("i", `wf-caret${row.opens ? (this.open.has(run.at) ? " is-open" : " is-closed") : ""}`));
      const swatch = element("i", "swatch");
      swatch.style.background = charts.channel(run.channel);
      label.append(swatch);
      const calls = row.bar < 0 ? run.calls : run.counts ? run.counts[row.bar] : 1;
      if (row.kind === "run" || calls > 1) {
        if (calls > 1) label.append(element("b", "", `${number(calls)} × `));
        label.append(element("code", "wf-text", run.label));
      } else label.append(element("span", "wf-text", `at ${charts.exact(run.starts[row.bar])}`));
      const flying = run.flying >= 0 && (row.bar < 0 || row.bar === run.flying);
      if (flying) label.append(element("span", "wf-flag", "in flight"));
      else if (row.bar >= 0 ? run.failed.has(row.bar) : run.errors) label.append(element("span", "wf-flag", row.bar >= 0 ? "failed" : `${number(run.errors)} failed`));
      time = duration((row.bar < 0 ? run.total : run.lengths[row.bar]) / 1000);
    }
    // Said in a sentence, and shown in pieces.
    const shown = [label, element("span", "wf-time", time)];
    for (const piece of shown) piece.setAttribute("aria-hidden", "true");
    line.append(element("span", "sr", this.words(row)), ...shown);
    return line;
  }

  /** The call under the pointer, or the nearest within a few pixels. */
  near(row, x) {
    if (row.kind !== "run" && row.kind !== "call") return -1;
    if (row.bar >= 0) return row.bar;
    const { run } = row;
    const [at, slack] = [this.time(x), (4 / this.room) * (this.axis.max - this.axis.min)];
    let [found, distance] = [-1, slack];
    for (let bar = 0; bar < run.starts.length; bar += 1) {
      const away = Math.max(run.starts[bar] - at, at - run.starts[bar] - run.lengths[bar], 0);
      if (away < distance || (away === 0 && found < 0)) [found, distance] = [bar, away];
      if (run.starts[bar] - at > slack) break;
    }
    return found;
  }

  tell(row, x, event) {
    const { duration, number, count } = charts;
    if (row.kind === "phases") {
      const at = this.time(x);
      const lines = this.picture.phases.filter(([, start, length]) => at >= start && at <= start + length);
      if (!lines.length) return charts.hush();
      return charts.say(lines.map(([name, start, length]) => ["tip-title", `${name}: ${duration(length / 1000)} from ${duration(start / 1000)}`]), event.clientX, event.clientY);
    }
    if (row.kind === "blocked") {
      const slack = (4 / this.room) * (this.axis.max - this.axis.min);
      const at = this.time(x);
      const found = this.picture.blocked.find(([start, length]) => at >= start - slack && at <= start + length + slack);
      if (!found) return charts.hush();
      return charts.say([["tip-title", `Blocked for ${duration(found[1] / 1000)}, from ${charts.exact(found[0])}`], ["", found[2]]], event.clientX, event.clientY);
    }
    if (row.kind === "thread") return charts.hush();
    const { run } = row;
    const bar = x < 0 ? (row.kind === "call" ? row.bar : -1) : this.near(row, x);
    const lines = [["tip-code", run.label]];
    if (bar >= 0) {
      const calls = run.counts ? run.counts[bar] : 1;
      const state = bar === run.flying ? " and never returned" : run.failed.has(bar) ? ", failed" : "";
      lines.push(["tip-title", `${calls > 1 ? `${number(calls)} calls within ` : ""}${duration(run.lengths[bar] / 1000)}, from ${charts.exact(run.starts[bar])}${state}`]);
    }
    if (run.calls > 1 && row.bar < 0) {
      const different = run.different ? `, ${number(run.different)} different sets of parameters` : "";
      lines.push(["", `${count(run.calls, "call")}, ${duration(run.total / 1000)} together, longest ${duration(run.longest / 1000)}${different}`]);
      if (run.errors) lines.push(["bad", `${number(run.errors)} failed`]);
    }
    if (run.inTransaction) lines.push(["", run.inTransaction === run.calls ? "within a transaction" : `${number(run.inTransaction)} within a transaction`]);
    if (run.relationship) lines.push(["", `loaded for ${run.relationship}`]);
    lines.push(["tip-code", `${run.callsite}${run.code ? ` ${run.code}` : ""}`]);
    if (run.target) lines.push(["tip-muted", `${run.target}${run.thread ? `, thread ${run.thread}` : ""}`]);
    return charts.say(lines, event.clientX, event.clientY);
  }

  toggle(row, open = !this.open.has(row.run.at)) {
    if (!row.opens || open === this.open.has(row.run.at)) return;
    if (open) this.open.add(row.run.at);
    else this.open.delete(row.run.at);
    const chosen = this.rows[this.selected];
    this.list();
    this.selected = Math.max(0, this.rows.findIndex((one) => one.run === chosen.run && one.kind === chosen.kind && one.bar === chosen.bar));
    this.resize(this.width);
  }

  choose(index) {
    const ROW = this.row;
    this.selected = Math.max(0, Math.min(this.rows.length - 1, index));
    const y = this.selected * ROW;
    if (y < this.scroller.scrollTop) this.scroller.scrollTop = y;
    else if (y + ROW > this.scroller.scrollTop + this.height) this.scroller.scrollTop = y + ROW - this.height;
    this.paint();
  }

  /** The window on what a row is about, with some air. */
  focus(row) {
    if (!row.run) return this.axis.reset();
    const { run } = row;
    const last = run.starts.length - 1;
    const [from, to] = row.bar >= 0 ? [run.starts[row.bar], run.starts[row.bar] + run.lengths[row.bar]] : [run.starts[0], run.starts[last] + run.lengths[last]];
    const air = Math.max((to - from) * 0.1, this.axis.least);
    return this.axis.set(from - air, to + air);
  }

  /** Where the keyboard zooms: at the chosen call, or in the middle when that is out of sight. */
  middle(row) {
    if (!row.run || row.bar < 0) return undefined;
    const at = row.run.starts[row.bar] + row.run.lengths[row.bar] / 2;
    return at >= this.axis.min && at <= this.axis.max ? at : undefined;
  }

  keydown(event) {
    const row = this.rows[this.selected];
    const page = Math.max(1, Math.floor(this.height / this.row) - 1);
    const acts = {
      ArrowDown: () => this.choose(this.selected + 1), ArrowUp: () => this.choose(this.selected - 1),
      PageDown: () => this.choose(this.selected + page), PageUp: () => this.choose(this.selected - page),
      Home: () => this.choose(0), End: () => this.choose(this.rows.length - 1),
      ArrowRight: () => {
        if (!row.opens) return;
        if (this.open.has(row.run.at)) this.choose(this.selected + 1);
        else this.toggle(row, true);
      },
      ArrowLeft: () => {
        if (row.opens && this.open.has(row.run.at)) this.toggle(row, false);
        else if (row.level > 1) this.choose(this.rows.findLastIndex((one, at) => at < this.selected && one.level < row.level));
      },
      Enter: () => this.focus(row), " ": () => row.opens && this.toggle(row), Escape: () => charts.hush(),
    };
    const act = !event.ctrlKey && !event.metaKey && !event.altKey && acts[event.key];
    if (act && row) act();
    if (act || this.axis.key(event, row && this.middle(row))) event.preventDefault();
  }

  listen() {
    const { scroller } = this;
    // The place on the axis, negative on a row's name; and the row.
    const where = (event) => {
      const box = scroller.getBoundingClientRect();
      const y = event.clientY - box.top - scroller.clientTop + scroller.scrollTop;
      const index = Math.floor(y / this.row);
      const named = this.narrow && y - index * this.row < this.over;
      return [named ? -1 : event.clientX - box.left - this.gutter, this.rows[index], index];
    };
    const within = (x) => Math.max(0, Math.min(this.room, x));
    charts.fingers(scroller, this.axis, (event) => event.clientX - scroller.getBoundingClientRect().left - this.gutter, () => this.room);
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    scroller.addEventListener("keydown", (event) => this.keydown(event));
    scroller.addEventListener("wheel", (event) => this.axis.wheel(event, this.time(within(where(event)[0])), this.room), { passive: false });
    scroller.addEventListener("pointerdown", (event) => {
      const [x] = where(event);
      if (event.button || x < 0 || x > this.room || event.pointerType === "touch") return;
      this.drag = { x, to: x, last: x, pan: event.shiftKey, moved: false };
      scroller.setPointerCapture(event.pointerId);
    });
    scroller.addEventListener("pointermove", (event) => {
      const [x, row] = where(event);
      const { drag } = this;
      if (drag) {
        drag.moved ||= Math.abs(x - drag.x) > 3;
        if (drag.pan) this.axis.pan((drag.last - x) / this.room);
        drag.to = within(x);
        drag.last = x;
        charts.hush();
        this.draw();
        return;
      }
      this.axis.point(x >= 0 && x <= this.room ? this.time(x) : null);
      if (row) this.tell(row, x, event);
      else charts.hush();
    });
    scroller.addEventListener("pointerup", (event) => {
      const { drag } = this;
      this.drag = null;
      const [x, row, index] = where(event);
      if (drag && drag.moved) {
        if (!drag.pan) this.axis.set(this.time(Math.min(drag.x, drag.to)), this.time(Math.max(drag.x, drag.to)));
        this.draw();
      } else if (row) {
        this.choose(index);
        if (x < 0 && row.opens) this.toggle(row);
        // A double click: the browser's own needs an element that stays, and rows are made anew.
        if (x >= 0 && event.timeStamp - this.clicked < 400) this.axis.reset();
        this.clicked = event.timeStamp;
        if (event.pointerType === "touch") this.tell(row, x, event);
      }
    });
    scroller.addEventListener("pointercancel", () => {
      this.drag = null;
      this.draw();
    });
    scroller.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") charts.hush();
      if (!this.drag) this.axis.point(null);
    });
    // In the strip above, the part in sight is moved.
    const { head } = this;
    const move = (event) => {
      const x = event.clientX - head.getBoundingClientRect().left - this.gutter;
      const half = (this.axis.max - this.axis.min) / 2;
      const at = this.axis.from + (within(x) / this.room) * (this.axis.to - this.axis.from);
      this.axis.pan((at - half - this.axis.min) / (2 * half));
    };
    head.addEventListener("pointerdown", (event) => {
      head.setPointerCapture(event.pointerId);
      move(event);
    });
    head.addEventListener("pointermove", (event) => {
      if (head.hasPointerCapture(event.pointerId)) move(event);
    });
    head.addEventListener("wheel", (event) => {
      const x = within(event.clientX - head.getBoundingClientRect().left - this.gutter);
      this.axis.wheel(event, this.time(x), this.room);
    }, { passive: false });
  }
};
