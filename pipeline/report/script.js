"use strict";
// Hover read-outs and zoom. The page is whole without this: it only draws the same curves again at another range.
(() => {
  const NS = "http://www.w3.org/2000/svg", LEFT = 54, RIGHT = 430, TOP = 8, BOTTOM = 176;
  const data = JSON.parse(document.getElementById("charts").textContent);
  const say = document.getElementById("say");
  document.body.classList.add("scripted");

  const node = (name, attributes, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e5) { const power = Math.min(4, Math.floor(Math.log10(size) / 3)); return `${(value / 1000 ** power).toFixed(1)} ${["", "k", "M", "G", "T"][power]}`; }
    if (size && size < 1e-3) return value.toExponential(2);
    return Number.isInteger(value) ? String(value) : value.toFixed(Math.max(0, (size < 1 ? 2 : 3) - Math.floor(Math.log10(size))));
  };
  const bytes = (value) => { let power = 0; while (value >= 1024 && power < 4) { value /= 1024; power += 1; } return `${short(value)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`; };
  const said = (value, unit) => (unit === "%" ? `${(100 * value).toFixed(1)} %` : unit === "B" ? bytes(value) : unit ? `${short(value)} ${unit}` : short(value));
  const tick = (value, unit, digits = 4) => (unit === "%" ? `${+(100 * value).toPrecision(6)}%` : value && Math.abs(value) < 1e-4 ? (+value.toPrecision(digits)).toExponential() : Math.abs(value) < 1e4 ? String(+value.toPrecision(digits)) : short(value));
  // Figures that it takes to tell the ticks of an axis apart.
  const digitsFor = (ticks) => { let count = 4; while (count < 7 && new Set(ticks.map((value) => +value.toPrecision(count))).size < ticks.length) count += 1; return count; };

  const linearTicks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i += 1) ticks.push(+(i * step).toPrecision(12));
    return ticks;
  };
  const logTicks = (low, high) => {
    const ticks = [], first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const factors = Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1], stride = Math.max(1, Math.floor((last - first) / 6));
    for (let decade = first; decade <= last; decade += stride) for (const factor of factors) {
      const value = +(factor * 10 ** decade).toPrecision(12);
      if (value >= low && value <= high) ticks.push(value);
    }
    return ticks.length > 1 ? ticks : linearTicks(low, high, 4);
  };
  // First index whose step is not below x.
  const find = (xs, x) => { let low = 0, high = xs.length; while (low < high) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle + 1; else high = middle; } return low; };
  const nearest = (xs, x) => { const i = find(xs, x); return i > 0 && (i === xs.length || x - xs[i - 1] < xs[i] - x) ? i - 1 : i; };

  class Chart {
    constructor(figure, model, stage) {
      this.figure = figure; this.model = model; this.stage = stage; this.svg = figure.querySelector("svg");
      this.paths = [...figure.querySelectorAll("path.line")]; this.dots = [...figure.querySelectorAll("circle.dot")];
      this.cursor = figure.querySelector(".cursor"); this.values = [...figure.querySelectorAll(".legend b")];
      this.scale = model.scale; this.range = model.x; this.grid = figure.querySelector(".grid"); this.last = this.values.map((value) => value.textContent);
      this.fit();
      const button = figure.querySelector(".scale");
      if (button) button.addEventListener("click", () => { this.scale = this.scale === "log" ? "linear" : "log"; button.setAttribute("aria-pressed", String(this.scale === "log")); this.show(this.range); });
    }
    fit() {
      const [from, to] = this.range, inside = [];
      for (const { xs, ys } of this.model.lines) {
        const start = Math.max(0, find(xs, from) - 1), end = Math.min(xs.length, find(xs, to) + 1);
        for (let i = start; i < end; i += 1) inside.push(ys[i]);
      }
      let low = Math.min(...inside), high = Math.max(...inside);
      if (this.scale === "log") { const factor = Math.max((high / low) ** 0.06, 1.05); this.y = [low / factor, high * factor]; return; }
      if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; this.y = [low, high]; return; }
      const air = (high - low) * 0.06;
      this.y = [low >= 0 && low < air * 3 ? 0 : low - air, high + air];
    }
    px(x) { return LEFT + (x - this.range[0]) / (this.range[1] - this.range[0]) * (RIGHT - LEFT); }
    py(y) { const f = this.scale === "log" ? Math.log10 : (v) => v; return BOTTOM + (f(y) - f(this.y[0])) / (f(this.y[1]) - f(this.y[0])) * (TOP - BOTTOM); }
    show(range) {
      this.range = range; this.fit();
      this.model.lines.forEach(({ xs, ys }, index) => {
        const from = Math.max(0, find(xs, range[0]) - 1), to = Math.min(xs.length, find(xs, range[1]) + 2);
        let path = "";
        for (let i = from; i < to; i += 1) path += `${path ? "L" : "M"}${this.px(xs[i]).toFixed(1)},${this.py(ys[i]).toFixed(1)}`;
        this.paths[index].setAttribute("d", path);
      });
      this.dots.forEach((dot) => dot.setAttribute("visibility", "hidden"));
      this.axes(); this.point(null);
    }
    axes() {
      const parts = [], ticks = this.scale === "log" ? logTicks(...this.y) : linearTicks(...this.y, 4), digits = digitsFor(ticks);
      for (const value of ticks) {
        const y = this.py(value).toFixed(1);
        parts.push(node("line", { x1: LEFT, x2: RIGHT, y1: y, y2: y }), node("text", { x: LEFT - 6, y: +y + 3.5, "text-anchor": "end" }, tick(value, this.model.unit, digits)));
      }
      for (const value of linearTicks(...this.range, 5)) parts.push(node("text", { x: this.px(value).toFixed(1), y: BOTTOM + 15, "text-anchor": "middle" }, tick(value, "")));
      parts.push(node("line", { class: "base", x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM }));
      this.grid.replaceChildren(...parts);
    }
    point(step) {
      this.cursor.replaceChildren();
      if (step === null || step < this.range[0] || step > this.range[1]) { this.values.forEach((value, i) => { value.textContent = this.last[i]; }); return ""; }
      const x = this.px(step), words = [];
      this.cursor.append(node("line", { x1: x, x2: x, y1: TOP, y2: BOTTOM }), node("text", { x: Math.min(x + 5, RIGHT - 40), y: TOP + 9 }, `${this.model.xlabel} ${short(step)}`));
      this.model.lines.forEach(({ name, xs, ys }, index) => {
        const at = nearest(xs, step), text = said(ys[at], this.model.unit);
        if (this.values[index]) this.values[index].textContent = text;
        words.push(`${name} ${text}`);
        const dot = node("circle", { cx: this.px(xs[at]), cy: this.py(ys[at]), r: 3.2, class: [...this.paths[index].classList].find((part) => /^c\d$/.test(part)) || "c0" });
        if (xs[at] >= this.range[0] && xs[at] <= this.range[1]) this.cursor.append(dot);
      });
      return `${this.model.xlabel} ${short(step)}: ${words.join(", ")}`;
    }
    // The step of the leading line that is nearest to a pixel of the screen.
    stepAt(event) {
      const box = this.svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 440;
      return this.range[0] + (Math.min(RIGHT, Math.max(LEFT, x)) - LEFT) / (RIGHT - LEFT) * (this.range[1] - this.range[0]);
    }
    band(from, to) {
      this.cursor.querySelector("rect")?.remove();
      const [x0, x1] = [this.px(Math.min(from, to)), this.px(Math.max(from, to))];
      this.cursor.append(node("rect", { x: x0, y: TOP, width: Math.max(0, x1 - x0), height: BOTTOM - TOP }));
    }
    snap(step) { const { xs } = this.model.lines[0]; return xs[nearest(xs, step)]; }
    move(step, by) { const { xs } = this.model.lines[0]; return xs[Math.min(xs.length - 1, Math.max(0, (step === null ? find(xs, this.range[0]) - 1 : nearest(xs, step)) + by))]; }
  }

  // All charts of a stage share their steps: they are pointed at and zoomed together.
  class Stage {
    constructor(box) {
      this.charts = [...box.querySelectorAll("[data-chart]")].filter((figure) => figure.querySelector("svg")).map((figure) => new Chart(figure, data[figure.dataset.chart], this));
      if (!this.charts.length) return;
      this.whole = this.charts[0].model.x; this.range = this.whole; this.step = null; this.buttons = [...box.querySelectorAll("[data-zoom]")];
      for (const button of this.buttons) button.addEventListener("click", () => this.zoom([this.whole[1] - (this.whole[1] - this.whole[0]) * button.dataset.zoom, this.whole[1]], button));
      for (const chart of this.charts) this.listen(chart);
    }
    zoom(range, button = null) {
      const smallest = (this.whole[1] - this.whole[0]) / 1e4;
      let [from, to] = [Math.max(this.whole[0], range[0]), Math.min(this.whole[1], range[1])];
      if (to - from < smallest) return;
      this.range = [from, to]; this.step = null;
      if (from === this.whole[0] && to === this.whole[1]) button = this.buttons[0];
      for (const other of this.buttons) other.setAttribute("aria-pressed", String(other === button));
      for (const chart of this.charts) chart.show(this.range);
    }
    point(step, speaker = null) {
      this.step = step;
      for (const chart of this.charts) { const words = chart.point(step); if (chart === speaker) say.textContent = words; }
    }
    listen(chart) {
      const { svg } = chart;
      let start = null;
      svg.addEventListener("pointermove", (event) => { const step = chart.stepAt(event); this.point(chart.snap(step)); if (start !== null) chart.band(start, step); });
      svg.addEventListener("pointerleave", () => { if (start === null) this.point(null); });
      svg.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && event.button === 0) { start = chart.stepAt(event); svg.setPointerCapture(event.pointerId); } });
      svg.addEventListener("pointercancel", () => { start = null; this.point(null); });
      svg.addEventListener("pointerup", (event) => {
        if (start === null) return;
        const [from, to] = [Math.min(start, chart.stepAt(event)), Math.max(start, chart.stepAt(event))];
        start = null;
        if (to - from > (this.range[1] - this.range[0]) * 0.02) this.zoom([from, to]); else this.point(chart.snap(to));
      });
      svg.addEventListener("dblclick", () => this.zoom(this.whole));
      svg.addEventListener("blur", () => this.point(null));
      svg.addEventListener("keydown", (event) => this.key(event, chart));
    }
    key(event, chart) {
      const [from, to] = this.range, width = to - from, middle = this.step === null ? (from + to) / 2 : this.step, stride = event.shiftKey ? 10 : 1;
      const actions = {
        ArrowRight: () => this.point(chart.move(this.step, stride), chart), ArrowLeft: () => this.point(chart.move(this.step, -stride), chart),
        Home: () => this.point(chart.snap(from), chart), End: () => this.point(chart.snap(to), chart),
        "+": () => this.zoom([middle - width / 4, middle + width / 4]), "-": () => this.zoom([middle - width, middle + width]),
        0: () => this.zoom(this.whole), Escape: () => this.zoom(this.whole),
      };
      const action = actions[event.key === "=" ? "+" : event.key];
      if (action && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); action(); }
    }
  }
  for (const box of document.querySelectorAll(".linked")) new Stage(box);

  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; } catch {
      // Without the clipboard (an opened file in some browsers) the text is at least selected.
      const range = document.createRange(); range.selectNodeContents(code); getSelection().removeAllRanges(); getSelection().addRange(range);
    }
  });

  const links = new Map([...document.querySelectorAll(".tabs a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.classList.toggle("here", id === entry.target.id);
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) { const section = document.getElementById(id); if (section) seen.observe(section); }

  addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details:not(.numbers)")) fold.open = true; });
  if ("live" in document.body.dataset) {
    // The server answers with a new number when the run's files have changed.
    let known = null;
    setInterval(async () => { try { const now = await (await fetch("version")).text(); if (known !== null && now !== known) location.reload(); known = now; } catch { /* the run's server has ended */ } }, 3000);
  }
})();
