// Draws the plots of a report with uPlot. The figures come as JSON; nothing of them is ever made into HTML.
"use strict";
(() => {
  let data = JSON.parse(document.getElementById("data").textContent);
  const stacked = ["executing", "encoding", "room", "turn", "item", "starting"];
  const levels = 12;
  const dashes = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const font = (size) => `${size}px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif`;
  const digits = (value, most) => value.toLocaleString("en", { maximumSignificantDigits: most });

  function seconds(value) {
    if (value === 0) return "0";
    if (value < 1e-3) return `${digits(value * 1e6, 3)}us`;
    if (value < 1) return `${digits(value * 1e3, 3)}ms`;
    if (value < 120) return `${digits(value, 4)}s`;
    const whole = Math.round(value);
    const rest = whole % 60 ? `${String(whole % 60).padStart(2, "0")}s` : "";
    if (whole < 3600) return `${Math.floor(whole / 60)}m${rest}`;
    return `${Math.floor(whole / 3600)}h${String(Math.floor(whole / 60) % 60).padStart(2, "0")}m`;
  }

  // Steps of an axis of time, in seconds; above a minute as clocks have them.
  const steps = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10].flatMap((ten) => [ten, 2 * ten, 5 * ten])
    .concat([15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800])
    .filter((step) => step < 20 || step === 30 || step >= 60).sort((a, b) => a - b);

  // Every n-th end of an interval, and the last one.
  const ends = (every) => data.at.filter((_, i) => (i + 1) % every === 0 || i + 1 === data.at.length);

  function axes(u) {
    const line = { stroke: colour("line"), width: 1 };
    return { stroke: colour("quiet"), font: font(12), grid: line, ticks: { ...line, size: 4 }, ...u };
  }

  function clock(more) {
    return axes({ size: 34, incrs: steps, space: 70, values: (_, splits) => splits.map(seconds), ...more });
  }

  function series(name, i, unit, more) {
    return {
      label: name, stroke: colour(`c${i % 8}`), width: 1.75, dash: dashes[i % 4], points: { show: false },
      value: (_, value) => (value == null ? "" : `${digits(value, 4)}${unit}`), ...more,
    };
  }

  // Lines are told apart by their dashes too, in the legend as in the plot.
  const legend = { markers: { width: 2, dash: (_, i) => ["solid", "dashed", "dotted", "double"][(i - 1) % 4] } };

  // 1, 2 and 5 of each power of ten where there are few of them, else the powers alone.
  function logarithmic(low, high) {
    const found = [];
    const fine = Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      fine.forEach((digit) => found.push(digit * 10 ** power));
    }
    return found.filter((value) => value >= low && value <= high);
  }

  const whole = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
  const readable = 8;

  // The lines that are shown at first: of very many nobody can read all.
  function largest(found) {
    const mean = (one) => one.values.reduce((sum, value) => sum + value, 0) / one.values.length;
    return new Set([...found].sort((a, b) => mean(b) - mean(a)).slice(0, readable));
  }

  // One line for each; an axis for each unit, the second one on the right.
  function lines(found, tops) {
    const x = ends(data.every);
    const units = [...new Set(found.map((one) => one.unit))];
    const scales = { x: { time: false, range: [0, x[x.length - 1]] } };
    units.forEach((unit) => { scales[unit] = { range: (_, low, high) => [0, Math.max((high || 0) * 1.08, tops[unit] || 0) || 1] }; });
    const beside = (unit, i) => axes({
      size: 62, scale: unit, side: i ? 1 : 3, grid: { show: !i, stroke: colour("line"), width: 1 },
      values: (_, splits) => splits.map((value) => digits(value, 4) + unit), ...(unit ? {} : { incrs: whole }),
    });
    const shown = largest(found);
    return {
      options: {
        height: 240,
        scales,
        axes: [clock(), ...units.map(beside)],
        series: [
          { label: "at", value: (_, value) => (value == null ? "" : seconds(value)) },
          ...found.map((one, i) => series(one.name, i, one.unit, { scale: one.unit, show: shown.has(one), points: { show: x.length < 3 } })),
        ],
        legend,
        cursor: { sync: { key: "time" }, drag: { x: true, y: false } },
        hooks: { draw: [marks] },
      },
      data: [x, ...found.map((one) => one.values)],
    };
  }

  // A line where a life of the run began, with its number where there is room for it.
  function marks(u) {
    const ink = u.ctx;
    ink.save();
    ink.strokeStyle = ink.fillStyle = colour("quiet");
    ink.font = font(11 * devicePixelRatio);
    ink.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    let free = u.bbox.left;
    data.lives.forEach(([at, number]) => {
      const x = Math.round(u.valToPos(at, "x", true));
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
      ink.beginPath();
      ink.moveTo(x, u.bbox.top);
      ink.lineTo(x, u.bbox.top + u.bbox.height);
      ink.stroke();
      const text = `life ${number}`;
      const wide = ink.measureText(text).width + 6 * devicePixelRatio;
      if (x < free || x + wide > u.bbox.left + u.bbox.width) return;
      ink.fillText(text, x + 3 * devicePixelRatio, u.bbox.top + 11 * devicePixelRatio);
      free = x + wide;
    });
    ink.restore();
  }

  function rates() {
    return data.rates.length ? lines(data.rates.map((rate) => ({ ...rate, unit: "/s" })), {}) : null;
  }

  function fill() {
    return data.fill.length ? lines(data.fill, { " %": 100 }) : null;
  }

  function times() {
    const { edges, tasks } = data.times;
    if (!tasks.length) return null;
    const step = uPlot.paths.stepped({ align: -1 });
    return {
      options: {
        height: 240,
        scales: { x: { time: false, distr: 3, range: [edges[0], edges[edges.length - 1]] }, y: { range: (_, low, high) => [0, high * 1.08 || 1] } },
        axes: [
          axes({
            size: 34, splits: (_, __, low, high) => logarithmic(low, high), filter: (_, splits) => splits,
            values: (_, splits) => splits.map(seconds),
          }),
          axes({ size: 62, values: (_, splits) => splits.map((value) => `${digits(value, 3)} %`) }),
        ],
        series: [
          { label: "up to", value: (_, value) => (value == null ? "" : seconds(value)) },
          ...tasks.map((task, i) => series(task.name, i, " %", { paths: step, fill: `${colour(`c${i % 8}`)}22` })),
        ],
        legend,
        cursor: { drag: { x: false, y: false } },
      },
      data: [edges, ...tasks.map((task) => task.values)],
    };
  }

  // A row's text, six signs an interval, as numbers; a dot repeats the interval before it.
  function unpacked(text) {
    const found = [];
    for (let i = 0; i < text.length;) {
      if (text[i] === ".") { found.push(found[found.length - 1]); i += 1; continue; }
      found.push(Array.from(text.slice(i, i + 6), (sign) => parseInt(sign, 16)));
      i += 6;
    }
    return found;
  }

  // Diagonal lines: two of the ways to wait are told apart without their colours too.
  function hatched(context, base, up) {
    const tile = document.createElement("canvas");
    const edge = 6;
    tile.width = tile.height = edge;
    const ink = tile.getContext("2d");
    ink.fillStyle = base;
    ink.fillRect(0, 0, edge, edge);
    ink.strokeStyle = colour("page");
    ink.lineWidth = 1;
    for (const shift of [-edge, 0, edge]) {
      ink.beginPath();
      ink.moveTo(shift, up ? edge : 0);
      ink.lineTo(shift + edge, up ? 0 : edge);
      ink.stroke();
    }
    return context.createPattern(tile, "repeat");
  }

  function timeline(box) {
    const rows = data.timeline.map((row) => ({ ...row, cells: unpacked(row.cells) }));
    if (!rows.length) return null;
    const x = ends(rows[0].every);
    const high = rows.length <= 12 ? 22 : rows.length <= 40 ? 14 : Math.max(4, Math.floor(620 / rows.length));
    const labels = named(rows, high);
    const wide = Math.min(box.clientWidth * 0.32, 20 + 6.6 * Math.max(...labels.map(([, text]) => text.length)));
    const fitting = Math.max(4, Math.floor((wide - 20) / 6.6));
    const short = (text) => (text.length > fitting ? `${text.slice(0, fitting - 1)}…` : text);
    return {
      options: {
        height: rows.length * high + 42,
        padding: [8, 14, 0, 0],
        legend: { show: false },
        scales: { x: { time: false, range: [0, x[x.length - 1]] }, y: { range: [0, rows.length], dir: -1 } },
        axes: [
          clock({ grid: { show: false } }),
          axes({
            size: wide, gap: 4, font: font(11), grid: { show: false }, ticks: { show: false },
            splits: () => labels.map(([at]) => at),
            values: () => labels.map(([, text]) => short(text)),
          }),
        ],
        series: [{}, { paths: () => null, points: { show: false } }],
        cursor: { sync: { key: "time" }, y: true, points: { show: false }, drag: { x: true, y: false } },
        hooks: { draw: [(u) => paint(u, rows, x), marks], setCursor: [(u) => tell(u, rows, x)] },
      },
      data: [x, x.map(() => 0)],
    };
  }

  // What stands beside the rows: every worker where there is room, else the tasks; those of other machines with these.
  function named(rows, high) {
    const placed = (name, node) => (node ? `${node}: ${name}` : name);
    if (high >= 12) return rows.map((row, i) => [i + 0.5, placed(row.name, row.node)]);
    const found = [];
    rows.forEach((row, i) => {
      const last = found[found.length - 1];
      if (last && last.task === row.task && last.node === row.node) last.end = i + 1;
      else found.push({ task: row.task, node: row.node, start: i, end: i + 1 });
    });
    return found.map((group) => [(group.start + group.end) / 2, placed(group.task, group.node)]);
  }

  function paint(u, rows, x) {
    const ink = u.ctx;
    const paints = stacked.map((state) =>
      (state === "room" ? hatched(ink, colour("room"), true) : state === "turn" ? hatched(ink, colour("turn"), false) : colour(state)));
    ink.save();
    ink.beginPath();
    ink.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ink.clip();
    const places = [u.valToPos(0, "x", true), ...x.map((end) => u.valToPos(end, "x", true))];
    rows.forEach((row, r) => {
      const top = u.valToPos(r, "y", true) + 1;
      const bottom = u.valToPos(r + 1, "y", true) - (u.bbox.height / rows.length > 6 ? 1 : 0);
      for (let i = 0; i < row.cells.length;) {
        let next = i + 1;
        while (next < row.cells.length && row.cells[next] === row.cells[i]) next += 1;
        bar(ink, row.cells[i], paints, places[i], places[next], top, bottom);
        i = next;
      }
      const machine = r && rows[r - 1].node !== row.node;
      if (machine || (r && rows[r - 1].task !== row.task)) {
        ink.fillStyle = colour("quiet");
        ink.fillRect(u.bbox.left, Math.round(top) - (machine ? 2 : 1), u.bbox.width, machine ? 3 : 1);
      }
    });
    ink.restore();
  }

  function bar(ink, cell, paints, left, right, top, bottom) {
    let low = 0;
    cell.forEach((reach, state) => {
      if (reach > low) {
        ink.fillStyle = paints[state];
        const from = bottom - ((bottom - top) * reach) / levels;
        ink.fillRect(left, from, Math.max(1, right - left + 0.4), ((bottom - top) * (reach - low)) / levels);
        low = reach;
      }
    });
  }

  function tell(u, rows, x) {
    const { left, top, idx } = u.cursor;
    const out = document.getElementById("timeline-now");
    if (left == null || left < 0 || idx == null || top < 0) { out.textContent = ""; return; }
    const at = u.posToVal(left, "x");
    let i = x.findIndex((end) => at <= end);
    if (i < 0) i = x.length - 1;
    const row = rows[Math.min(rows.length - 1, Math.max(0, Math.floor(u.posToVal(top, "y"))))];
    const cell = row.cells[i];
    if (!cell) { out.textContent = ""; return; }
    let low = 0;
    const parts = [];
    cell.forEach((reach, state) => {
      if (reach > low) parts.push(`${data.states[stacked[state]]} ${Math.round((100 * (reach - low)) / levels)} %`);
      low = Math.max(low, reach);
    });
    if (low < levels) parts.push(`${data.states.ended} ${Math.round((100 * (levels - low)) / levels)} %`);
    const task = row.name === row.task ? "" : ` (${row.task})`;
    const node = row.node ? ` on ${row.node}` : "";
    out.textContent = `${seconds(x[i])}  ${row.name}${task}${node}: ${parts.join(", ")}`;
  }

  // -- on the page ---------------------------------------------------------------------------

  const makers = { rates, fill, timeline, times };
  const drawn = new Map();

  function draw(id) {
    const box = document.getElementById(id);
    if (!box) return;
    const old = drawn.get(id);
    const chosen = new Map(old ? old.series.map((one) => [one.label, one.show]) : []);
    if (old) old.destroy();
    drawn.delete(id);
    const made = makers[id](box);
    const figure = box.closest("figure");
    if (!made) { figure.hidden = true; return; }
    made.options.series.forEach((one) => { if (chosen.has(one.label)) one.show = chosen.get(one.label); });
    const plot = new uPlot({ width: Math.max(200, box.clientWidth), ...made.options }, made.data, box);
    const canvas = plot.root.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    switches(plot);
    const note = figure.querySelector(".note-lines");
    const hidden = plot.series.filter((one) => !one.show).length;
    if (note && hidden) note.textContent = `(the ${readable} largest of ${hidden + readable}; each name below shows and hides its line)`;
    drawn.set(id, plot);
  }

  // The legend hides and shows lines; for a keyboard as well.
  function switches(plot) {
    plot.root.querySelectorAll(".u-legend .u-series th").forEach((head, i) => {
      if (!i || plot.series.length < 3) return;
      head.tabIndex = 0;
      head.setAttribute("role", "button");
      const shown = () => head.setAttribute("aria-pressed", String(plot.series[i].show));
      shown();
      head.addEventListener("click", () => queueMicrotask(shown));
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        head.click();
      });
    });
  }

  function keys(event) {
    const plot = drawn.get(event.currentTarget.id);
    if (!plot) return;
    const over = { width: plot.over.clientWidth, height: plot.over.clientHeight };
    let { left, top } = plot.cursor;
    if (event.key === "Escape") { plot.setCursor({ left: -10, top: -10 }); return; }
    const step = event.shiftKey ? 10 : 1;
    const across = { ArrowLeft: -step, ArrowRight: step }[event.key] || 0;
    const down = { ArrowUp: -step, ArrowDown: step }[event.key] || 0;
    if (!across && !down) return;
    event.preventDefault();
    if (left == null || left < 0) { left = 0; top = over.height / 2; }
    const x = plot.data[0];
    const at = Math.min(x.length - 1, Math.max(0, (plot.cursor.idx ?? 0) + across));
    const row = event.currentTarget.id === "timeline" ? over.height / data.timeline.length : over.height / 10;
    plot.setCursor({ left: across ? plot.valToPos(x[at], "x") - 0.5 : left, top: Math.min(over.height - 1, Math.max(1, top + down * row)) });
  }

  const redraw = () => Object.keys(makers).forEach(draw);

  // What a page has anew each time that it is served anew.
  function prepare() {
    redraw();
    Object.keys(makers).forEach((id) => document.getElementById(id)?.addEventListener("keydown", keys));
    document.querySelectorAll(".scroll > svg").forEach((picture) => {
      picture.parentNode.scrollLeft = (picture.parentNode.scrollWidth - picture.parentNode.clientWidth) / 2;
    });
  }

  // Puts the parts of the next page in the place of this one's: text and pictures, as its server has escaped them.
  async function renew() {
    const answer = await fetch(location.pathname, { cache: "no-store", referrerPolicy: "no-referrer" });
    if (!answer.ok) return;
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const focused = document.activeElement?.id;
    ["header", "nav", "main"].forEach((name) => {
      const [old, fresh] = [document.querySelector(name), next.querySelector(name)];
      if (old && fresh) old.replaceWith(document.adoptNode(fresh));
    });
    data = JSON.parse(next.getElementById("data").textContent);
    prepare();
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    root.dataset.renewed = String(Number(root.dataset.renewed || 0) + 1);
  }

  function follow() {
    const changes = new EventSource("events");
    let seen = "";
    let latest = Promise.resolve();
    const change = (event) => {
      if (event.data === seen && event.type !== "last") return;
      seen = event.data;
      latest = latest.then(renew).catch(() => {});
    };
    changes.addEventListener("message", change);
    changes.addEventListener("last", (event) => {
      changes.close();
      change(event);
      latest.then(() => { root.dataset.live = "ended"; });
    });
  }

  prepare();
  if (root.dataset.live) follow();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(redraw);
  });
  root.dataset.drawn = "yes";
})();
