// Lines and stacked columns over the window, with its deploys and incidents, a crosshair and zoom.
(() => {
  const { element, data, duration, number, size, instant } = charts;
  const HEIGHT = 170;
  const UNITS = { ms: duration, count: number, bytes: size };

  const stacked = (series) => {
    const sums = [];
    let before = series[0].values.map(() => 0);
    for (const one of series) {
      before = one.values.map((value, at) => before[at] + (value || 0));
      sums.push(before);
    }
    return sums;
  };

  /** Instants in UTC: the time, and the day below the first one of it. */
  const days = (_, places, __, ___, step) => {
    let before = "";
    return places.map((at) => {
      const [day, time] = new Date(at * 1000).toISOString().split("T");
      const first = day !== before;
      before = day;
      if (step >= 86400) return day;
      return `${time.slice(0, step >= 60 ? 5 : 8)}${first ? `\n${day}` : ""}`;
    });
  };

  /** Vertical lines where something happened. */
  const marks = (picture) => (plot) => {
    const pen = plot.ctx;
    const ratio = uPlot.pxRatio;
    const { left, top, width, height } = plot.bbox;
    pen.save();
    pen.font = `${11 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    pen.textAlign = "left";
    let free = -Infinity;
    for (const mark of picture.marks) {
      const x = plot.valToPos(mark.at, "x", true);
      if (x < left || x > left + width) continue;
      pen.strokeStyle = pen.fillStyle = charts.colour(mark.kind === "incident" ? "critical" : mark.kind === "change" ? "accent" : "muted");
      pen.lineWidth = ratio * (mark.kind === "change" ? 2 : 1);
      pen.setLineDash(mark.kind === "change" ? [] : [4 * ratio, 3 * ratio]);
      pen.beginPath();
      pen.moveTo(Math.round(x), top - 14 * ratio);
      pen.lineTo(Math.round(x), top + height);
      pen.stroke();
      const wide = pen.measureText(mark.label).width;
      const at = x + wide + 6 * ratio > left + width ? x - wide - 4 * ratio : x + 4 * ratio;
      if (at > free) {
        pen.fillText(mark.label, at, top - 15 * ratio);
        free = at + wide + 8 * ratio;
      }
    }
    pen.restore();
  };

  const build = (place) => {
    const picture = data(place.dataset.timeChart);
    const words = UNITS[picture.unit];
    const stack = picture.kind === "stack";
    const columns = stack ? stacked(picture.series) : picture.series.map((one) => one.values);
    // The upper sums are drawn first, the lower ones before them.
    const order = columns.map((_, at) => (stack ? columns.length - 1 - at : at));
    const box = element("div", "time-chart");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${picture.title}. Right and left move through it, plus and minus zoom, 0 shows all`);
    const readout = element("p", "readout muted");
    readout.setAttribute("aria-live", "polite");
    const inner = element("div");
    inner.setAttribute("aria-hidden", "true");
    box.append(inner);
    place.replaceChildren(box, readout);
    const [from, to] = [picture.from, picture.to];
    const axis = new charts.Axis(from, to, (to - from) / 2000);
    const ink = () => charts.colour("muted");
    const whole = picture.unit === "count" ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] : undefined;
    const grid = { stroke: () => charts.colour("line"), width: 1 };
    const plot = new uPlot({
      width: 200, height: HEIGHT, padding: [18, 24, 0, 0], legend: { show: false }, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      scales: { x: { time: true, auto: false, range: () => [axis.min, axis.max] }, y: { range: (_, low, high) => [0, Math.max(picture.unit === "count" ? 1 : 0.01, high || 0) * 1.08] } },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { stroke: grid.stroke, size: 4 }, font: "11px system-ui, sans-serif", size: 40, space: 96, values: days },
        { stroke: ink, grid, ticks: { show: false }, font: "11px system-ui, sans-serif", size: 62, incrs: whole, values: (_, values) => values.map((value) => words(value)) },
      ],
      cursor: { y: false, points: { show: !stack, size: 6 }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => axis.reset() } },
      series: [{}, ...order.map((at) => {
        const { colour, style } = picture.series[at];
        const stroke = () => charts.colour(colour);
        if (stack) return { stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 60], align: 1 }) };
        return { stroke, width: style === "weak" ? 1 : 2, dash: style === "weak" ? [5, 3] : [], spanGaps: picture.bridged, points: { show: picture.at.length < 40, size: 5, fill: stroke } };
      })],
      hooks: {
        draw: [marks(picture)],
        setSelect: [(self) => {
          if (self.select.width > 3) axis.set(self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x"));
          self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        setCursor: [(self) => say(self.cursor.left >= 0 ? self.cursor.idx : null)],
      },
    }, [picture.at, ...order.map((at) => columns[at])], inner);

    const say = (at) => {
      if (at === null || at === undefined) {
        readout.textContent = charts.touched ? "Pinch to zoom." : "Drag to zoom, double click to see all.";
        return;
      }
      const parts = picture.series.map((one) => [one, one.values[at]]).filter(([, value]) => value !== null && (!stack || value));
      const when = picture.step ? `${instant(picture.at[at])} and ${duration(picture.step * 1000)} on` : instant(picture.at[at]);
      readout.textContent = [when, ...(parts.length ? parts.map(([one, value]) => `${one.label} ${words(value)}`) : ["nothing"])].join(" · ");
    };
    let index = -1;
    const move = (by) => {
      index = Math.max(0, Math.min(picture.at.length - 1, index < 0 ? (by > 0 ? 0 : picture.at.length - 1) : index + by));
      const at = picture.at[index];
      if (at < axis.min || at > axis.max) axis.set(at - (axis.max - axis.min) / 2, at + (axis.max - axis.min) / 2);
      requestAnimationFrame(() => plot.setCursor({ left: plot.valToPos(at, "x"), top: 10 }));
    };
    axis.watch(() => plot.setScale("x", { min: axis.min, max: axis.max }));
    charts.fingers(
      plot.over, axis, (event) => event.clientX - plot.over.getBoundingClientRect().left, () => plot.over.clientWidth,
      (x) => plot.setCursor({ left: x, top: 10 }),
    );
    plot.over.addEventListener("wheel", (event) => axis.wheel(event, plot.posToVal(plot.cursor.left, "x"), plot.over.clientWidth), { passive: false });
    box.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") move(event.key === "ArrowRight" ? 1 : -1);
      else if (!axis.key(event)) return;
      event.preventDefault();
    });
    charts.repaints.add(() => plot.redraw());
    charts.onWidth(place, (width) => plot.setSize({ width, height: HEIGHT }));
    say(null);
    place.dataset.drawn = "";
  };

  for (const place of document.querySelectorAll("[data-time-chart]")) {
    let made = false;
    charts.onWidth(place, () => {
      if (made) return;
      made = true;
      build(place);
    });
  }
})();
