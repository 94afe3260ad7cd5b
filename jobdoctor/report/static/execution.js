// One execution: CPU and memory above its calls, on one axis with one crosshair.
(() => {
  const { element, data, duration, size, Axis } = charts;

  const lines = (place, samples, axis, waterfall, kind) => {
    const cpu = kind === "cpu";
    const at = samples.at;
    const flat = (value) => at.map(() => value);
    const series = cpu ? [samples.cores, ...(samples.waiting.length ? [samples.waiting] : [])] : [samples.rss, ...(samples.baseline ? [flat(samples.baseline)] : [])];
    const top = Math.max(1, ...series.map((values) => values.reduce((one, other) => Math.max(one, other), 0)));
    const box = element("div", "usage");
    const name = element("p", "usage-name");
    const also = cpu ? samples.waiting.length && "dashed: waited for" : samples.baseline && "dashed: inherited";
    name.append(element("b", "", cpu ? "CPU" : "Memory"), element("span", "muted", `up to ${cpu ? `${top.toFixed(1)} CPUs` : size(top)}${also ? `, ${also}` : ""}`));
    const canvas = element("div", "usage-plot");
    canvas.setAttribute("aria-hidden", "true");
    box.append(name, canvas);
    place.append(box);
    const stroke = (index) => () => charts.colour(index ? "muted" : cpu ? "cpu" : "file");
    let quiet = false;
    const plot = new uPlot({
      width: 200, height: 64, padding: [4, 0, 2, 0], legend: { show: false },
      scales: { x: { time: false, auto: false, range: () => [axis.min, axis.max] }, y: { range: [0, top * 1.04] } },
      axes: [{ show: false }, { show: false }],
      cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => axis.reset() } },
      series: [{}, ...series.map((_, index) => ({
        stroke: stroke(index), width: index ? 1 : 1.5, dash: index ? [4, 3] : [], points: { show: false },
        paths: cpu ? uPlot.paths.stepped({ align: -1 }) : uPlot.paths.linear(),
        fill: index ? undefined : () => `color-mix(in srgb, ${charts.colour(cpu ? "cpu" : "file")} 16%, transparent)`,
      }))],
      hooks: {
        setSelect: [(self) => {
          if (self.select.width > 3) axis.set(self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x"));
          self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        setCursor: [(self) => {
          if (quiet) return;
          axis.point(self.cursor.left >= 0 ? self.posToVal(self.cursor.left, "x") : null);
        }],
      },
    }, [at, ...series], canvas);
    charts.fingers(
      plot.over, axis, (event) => event.clientX - plot.over.getBoundingClientRect().left, () => plot.over.clientWidth,
      (x) => axis.point(plot.posToVal(x, "x")),
    );
    plot.over.addEventListener("wheel", (event) => axis.wheel(event, plot.posToVal(plot.cursor.left, "x"), plot.over.clientWidth), { passive: false });
    const follow = () => {
      quiet = true;
      plot.batch(() => {
        if (plot.scales.x.min !== axis.min || plot.scales.x.max !== axis.max) plot.setScale("x", { min: axis.min, max: axis.max });
        plot.setCursor(axis.at === null ? { left: -10, top: -10 } : { left: plot.valToPos(axis.at, "x"), top: 10 }, false);
      });
      quiet = false;
    };
    axis.watch(follow);
    charts.repaints.add(() => plot.redraw());
    charts.onWidth(place, (width) => {
      const gutter = waterfall ? waterfall.gutter : Math.min(160, Math.round(width * 0.3));
      box.classList.toggle("narrow", gutter === 0);
      name.style.width = gutter ? `${gutter}px` : "auto";
      plot.setSize({ width: waterfall ? waterfall.room : width - gutter - 12, height: 64 });
      follow();
    });
  };

  /** What the samples say of an instant: the interval that it lies in. */
  const reading = (samples, at) => {
    const index = samples.at.findIndex((end) => end >= at);
    if (index < 0) return [];
    const blocked = samples.words[samples.blocked[index]];
    const waited = samples.waiting.length && samples.waiting[index] > 0.01 ? `, ${samples.waiting[index].toFixed(2)} waited for` : "";
    return [`${samples.cores[index].toFixed(2)} CPUs${waited}`, size(samples.rss[index]), ...(blocked ? [`blocked in ${blocked}`] : [])];
  };

  const build = (place) => {
    const all = data(place.dataset.execution);
    const { waterfall: picture, resources: samples } = all;
    const axis = new Axis(0, picture ? picture.length : samples.at[samples.at.length - 1], 5);
    const tools = element("div", "tools");
    const readout = element("p", "readout muted");
    tools.append(
      charts.button("+", "Zoom in", () => axis.zoom(0.5)), charts.button("−", "Zoom out", () => axis.zoom(2)),
      charts.button("◂", "Earlier", () => axis.pan(-0.25)), charts.button("▸", "Later", () => axis.pan(0.25)),
      charts.button("All", "All of the execution", () => axis.reset()), readout,
    );
    place.append(tools);
    const usage = element("div", "usages");
    const calls = element("div", "wf");
    place.append(usage, calls);
    const waterfall = picture ? new charts.Waterfall(calls, picture, axis, place.dataset.execution) : null;
    if (samples) {
      lines(usage, samples, axis, waterfall, "cpu");
      lines(usage, samples, axis, waterfall, "rss");
    }
    const say = () => {
      const window = axis.whole ? `${duration((axis.to - axis.from) / 1000)} from dequeue to reap${axis.at === null ? `; ${charts.touched ? "pinch" : "drag"} to zoom` : ""}` : `${charts.tick(axis.min, (axis.max - axis.min) / 10)} to ${charts.tick(axis.max, (axis.max - axis.min) / 10)}`;
      const at = axis.at === null ? [] : [`at ${charts.tick(axis.at, (axis.max - axis.min) / 100)}`, ...(samples ? reading(samples, axis.at) : [])];
      readout.textContent = [window, ...at].join(" · ");
    };
    axis.watch(say);
    say();
    place.dataset.drawn = "";
    for (const list of document.querySelectorAll(`details[data-fallback="${place.dataset.execution}"]`)) list.open = false;
    performance.mark("jobdoctor-execution-drawn");
  };

  for (const place of document.querySelectorAll("[data-execution]")) {
    let made = false;
    charts.onWidth(place, () => {
      if (made) return;
      made = true;
      build(place);
    });
  }
})();
