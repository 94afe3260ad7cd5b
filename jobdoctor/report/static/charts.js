// What the pictures share: words for numbers, colours of the page's theme, one time axis, one tooltip.
const charts = (() => {
  const duration = (ms) => {
    if (ms === null || !Number.isFinite(ms)) return "unknown";
    if (ms < 0.0005) return "0 ms";
    if (ms < 0.0995) return `${(ms * 1000).toFixed(0)} µs`;
    if (ms < 1) return `${ms.toFixed(2)} ms`;
    if (ms < 9.95) return `${ms.toFixed(1)} ms`;
    if (ms < 999.5) return `${ms.toFixed(0)} ms`;
    if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
    if (ms < 3599500) {
      const seconds = Math.round(ms / 1000);
      return seconds % 60 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${Math.floor(seconds / 60)} min`;
    }
    return ms < 172800000 ? `${(ms / 3600000).toFixed(1)} h` : `${(ms / 86400000).toFixed(1)} d`;
  };
  const size = (bytes) => {
    let value = bytes;
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (Math.abs(value) < 999.5) return unit === "B" || value >= 99.5 ? `${value.toFixed(0)} ${unit}` : `${value.toFixed(1)} ${unit}`;
      value /= 1000;
    }
    return `${value.toFixed(1)} TB`;
  };
  const number = (value) => (Math.abs(value - Math.round(value)) < 0.05 ? Math.round(value).toLocaleString("en-US") : value.toFixed(1));
  const share = (value) => (value > 0 && value < 0.005 ? "<1%" : `${(value * 100).toFixed(0)}%`);
  const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
  const instant = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  /** A position on an axis, to the digits that a step of it needs. */
  const tick = (us, step) => {
    if (us === 0) return "0";
    if (step < 1000) return `${(us / 1000).toFixed(step < 10 ? 3 : step < 100 ? 2 : 1)} ms`;
    if (us < 1e6 && step < 1e6) return `${(us / 1000).toFixed(0)} ms`;
    if (step < 6e7) return `${(us / 1e6).toFixed(step < 1e4 ? 3 : step < 1e5 ? 2 : step < 1e6 ? 1 : 0)} s`;
    return duration(us / 1000);
  };

  /** An instant of an execution, to the hundredth of a ms below a second. */
  const exact = (us) => (us < 1e6 ? `${(us / 1000).toFixed(2)} ms` : `${(us / 1e6).toFixed(4)} s`);

  // Colours are the page's variables, read once for each theme.
  const styles = getComputedStyle(document.documentElement);
  let known = new Map();
  const colour = (name) => {
    if (!known.has(name)) known.set(name, styles.getPropertyValue(`--${name}`).trim() || styles.getPropertyValue("--other").trim());
    return known.get(name);
  };
  const CHANNELS = { enqueue: "redis", mail: "http" };
  const channel = (name) => colour(CHANNELS[name] || name);
  const repaints = new Set();
  const repaint = () => {
    known = new Map();
    for (const draw of repaints) draw();
  };
  document.addEventListener("themechange", repaint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const data = (id) => {
    const block = id && document.getElementById(id);
    return block ? JSON.parse(block.textContent) : null;
  };
  const button = (text, name, act) => {
    const made = element("button", "tool", text);
    made.type = "button";
    if (name) {
      made.setAttribute("aria-label", name);
      made.title = name;
    }
    made.addEventListener("click", act);
    return made;
  };
  /** A canvas of this size in CSS pixels, sharp on its screen, and empty. */
  const surface = (canvas, width, height) => {
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (canvas.width !== wide || canvas.height !== high) {
      canvas.width = wide;
      canvas.height = high;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  };
  /** Calls with the width of an element whenever it gets another one: also when what hid it opens. */
  const onWidth = (target, act) => {
    let last = 0;
    const look = () => {
      const width = Math.floor(target.clientWidth);
      if (width > 0 && width !== last) {
        last = width;
        act(width);
      }
    };
    new ResizeObserver(look).observe(target);
    look();
  };
  /** At most once for each frame of the screen. */
  const soon = (act) => {
    let asked = false;
    return () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        act();
      });
    };
  };

  // One tooltip for the page. What it says is said to screen readers by the pictures themselves.
  const tip = element("div", "tip");
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const say = (lines, x, y) => {
    tip.replaceChildren(...lines.filter(Boolean).map(([kind, text]) => element("p", kind, text)));
    tip.hidden = false;
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    const left = x + 14 + wide > innerWidth ? x - 14 - wide : x + 14;
    const top = y + 14 + high > innerHeight ? y - 14 - high : y + 14;
    tip.style.left = `${Math.max(4, Math.min(left, innerWidth - wide - 4))}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };
  const hush = () => {
    tip.hidden = true;
  };
  addEventListener("scroll", hush, { passive: true, capture: true });
  // A finger does not hover: what a tap has said goes with the next one.
  addEventListener("pointerdown", hush, { capture: true });
  const touched = matchMedia("(pointer: coarse)").matches;

  /** The window on a stretch of time that several pictures look through, and the place of the crosshair on it. */
  class Axis {
    constructor(from, to, least) {
      Object.assign(this, { from, to, least, min: from, max: to, at: null, watchers: new Set() });
      this.tell = soon(() => {
        for (const watch of this.watchers) watch();
      });
    }
    watch(act) {
      this.watchers.add(act);
    }
    set(min, max) {
      const span = Math.min(this.to - this.from, Math.max(this.least, max - min));
      const middle = (min + max) / 2;
      const start = Math.min(this.to - span, Math.max(this.from, max - min < span ? middle - span / 2 : min));
      if (start === this.min && start + span === this.max) return;
      this.min = start;
      this.max = start + span;
      this.tell();
    }
    zoom(factor, at = (this.min + this.max) / 2) {
      this.set(at - (at - this.min) * factor, at + (this.max - at) * factor);
    }
    pan(part) {
      const by = (this.max - this.min) * part;
      const held = Math.max(this.from - this.min, Math.min(this.to - this.max, by));
      this.set(this.min + held, this.max + held);
    }
    reset() {
      this.set(this.from, this.to);
    }
    point(at) {
      if (at === this.at) return;
      this.at = at;
      this.tell();
    }
    get whole() {
      return this.max - this.min >= (this.to - this.from) * 0.999999;
    }
    /** True when the key was one for zooming or panning. */
    key(event, at) {
      if (event.ctrlKey || event.metaKey || event.altKey) return false;
      const acts = {
        "+": () => this.zoom(0.5, at), "=": () => this.zoom(0.5, at), w: () => this.zoom(0.5, at),
        "-": () => this.zoom(2, at), s: () => this.zoom(2, at), 0: () => this.reset(),
        a: () => this.pan(-0.25), d: () => this.pan(0.25),
      };
      const act = acts[event.key] || acts[event.key.toLowerCase()];
      if (act) act();
      return Boolean(act);
    }
    /** A wheel that zooms (with Ctrl) or pans (sideways); up and down are the page's. */
    wheel(event, at, width) {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 150), at);
      } else {
        const sideways = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
        if (Math.abs(sideways) <= Math.abs(event.shiftKey ? 0 : event.deltaY)) return;
        event.preventDefault();
        this.pan(sideways / Math.max(1, width));
      }
    }
  }

  /**
   * Fingers on a picture: two zoom, each keeps the instant that it was put on, and one pans what is zoomed. `place` is where
   * an event is on the axis in pixels, `room` how many the axis has; `look`, where given, follows one finger over the whole.
   * Up and down are the page's, by `touch-action: pan-y`. To be called before other listeners, which do not see a gesture.
   */
  const fingers = (target, axis, place, room, look) => {
    const SLACK = 6;
    const LEAST = 24; // fingers are not nearer to each other
    const held = new Map();
    let moved = false;
    const grip = () => {
      for (const finger of held.values()) finger.at = axis.min + (finger.x / room()) * (axis.max - axis.min);
    };
    target.style.touchAction = "pan-y";
    target.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      if (!held.size) moved = false;
      const x = place(event);
      held.set(event.pointerId, { x, from: x });
      grip();
    });
    target.addEventListener("pointermove", (event) => {
      const finger = held.get(event.pointerId);
      if (!finger) return;
      finger.x = place(event);
      const [one, other] = [...held.values()].sort((left, right) => left.at - right.at);
      moved ||= held.size > 1 || (!axis.whole && Math.abs(finger.x - finger.from) > SLACK);
      if (!moved) {
        if (look) look(finger.x);
        return;
      }
      event.stopImmediatePropagation();
      hush();
      // What was touched may be drawn anew: from here on, the picture itself gets what the fingers do.
      for (const id of held.keys()) target.setPointerCapture(id);
      const scale = other ? (other.at - one.at) / Math.max(LEAST, other.x - one.x) : (axis.max - axis.min) / room();
      const start = one.at - one.x * scale;
      axis.set(start, start + scale * room());
    });
    const leave = (event) => {
      if (!held.delete(event.pointerId)) return;
      grip();
      if (moved) event.stopImmediatePropagation();
    };
    target.addEventListener("pointerup", leave);
    target.addEventListener("pointercancel", leave);
  };

  /** Round places on an axis, about `room` of them. */
  const ticks = (min, max, room) => {
    const rough = (max - min) / Math.max(1, room);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) || rough;
    const places = [];
    for (let at = Math.ceil(min / step) * step; at <= max; at += step) places.push(at);
    return [places, step];
  };

  return {
    duration, size, number, share, count, instant, tick, ticks, exact, colour, channel, repaints, element, data, button, surface,
    onWidth, soon, say, hush, touched, fingers, Axis,
  };
})();
