"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.documentElement;
  root.classList.add("on");

  const words = (value) => (value === null ? "none" : String(Number(Number(value).toPrecision(4))));

  function make(name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function mark(name, className, attributes) {
    const node = document.createElementNS(SVG, name);
    node.setAttribute("class", className);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function nearest(places, place) {
    let best = 0;
    places.forEach((at, number) => {
      if (Math.abs(at - place) < Math.abs(places[best] - place)) best = number;
    });
    return best;
  }

  const REACH = 3; // points of the drawing within which a line has a value

  // Each kind of drawing has stops: columns, and rows where there are any.
  const kinds = {
    curves(data) {
      const stops = new Map();
      data.series.forEach((series) => series.x.forEach((x, place) => {
        if (!series.at[place].includes(null)) stops.set(x, series.at[place][0]);
      }));
      const sorted = [...stops].sort(([, one], [, other]) => one - other);
      const [, top, , bottom] = data.box;
      function points(column) {
        const [x, at] = sorted[column];
        return data.series.filter((series) => !series.hidden).flatMap((series) => {
          const drawn = series.x.map((_, place) => place).filter((place) => !series.at[place].includes(null));
          const exact = drawn.filter((place) => series.x[place] === x);
          if (exact.length) return exact.map((place) => ({ series, place }));
          const place = drawn[nearest(drawn.map((one) => series.at[one][0]), at)];
          const isNear = place !== undefined && Math.abs(series.at[place][0] - at) < REACH;
          return isNear ? [{ series, place }] : [];
        });
      }
      return {
        across: sorted.map(([, at]) => at),
        down: [0],
        say(column) {
          const values = points(column).map(({ series, place }) => {
            const interval = series.low.length
              ? ` [${words(series.low[place])}, ${words(series.high[place])}]`
              : "";
            const unit = data.unit ? ` ${data.unit}` : "";
            return { hue: series.hue, text: `${series.name}: ${words(series.y[place])}${unit}${interval}` };
          });
          return { head: `${data.x} ${words(sorted[column][0])}`, values };
        },
        draw(column) {
          const line = mark("path", "pointer", { d: `M${sorted[column][1]} ${top}V${bottom}` });
          const spots = points(column).map(({ series, place }) =>
            mark("circle", "spot", { cx: series.at[place][0], cy: series.at[place][1], r: 3.6 }));
          return [line, ...spots];
        },
      };
    },
    cells(data) {
      const gap = (places) => Math.abs(places[1] - places[0]) || 20;
      const said = (value) => (typeof value === "number" ? words(value) : value);
      return {
        across: data.left,
        down: data.top,
        say(column, row) {
          const names = data.rows[row].map((name, place) => `${data.y[place]} ${said(name)}`);
          const head = [...names, `${data.x} ${said(data.columns[column])}`].join(", ");
          const values = [{ text: `${data.value}: ${words(data.cells[row][column])}` }];
          const difference = differenceIn(data, row, column);
          if (difference !== null) values.push({ text: `${data.difference}: ${words(difference)}` });
          return { head: head.replace(/[, ]+$/, ""), values };
        },
        draw(column, row) {
          const [width, height] = [gap(data.left), gap(data.top)].map((side) => Math.max(side, 5));
          const corner = { x: data.left[column] - width / 2, y: data.top[row] - height / 2 };
          return [mark("rect", "spot", { ...corner, width, height })];
        },
      };
    },
  };

  function differenceIn(data, row, column) {
    const [value, own] = [data.cells[row][column], data.cells[row][row]];
    return data.difference && row !== column && value !== null && own !== null ? value - own : null;
  }

  function readable(drawing, data, reading) {
    const kind = kinds[data.kind](data);
    if (!kind.across.length || !kind.down.length) return;
    const svg = drawing.querySelector("svg");
    const layer = mark("g", "layer", { "aria-hidden": "true" });
    svg.append(layer);
    let [column, row] = [-1, 0];

    function show() {
      layer.replaceChildren(...kind.draw(column, row));
      const { head, values } = kind.say(column, row);
      const parts = values.map(({ hue, text }) => {
        const part = make("span", "value");
        if (hue !== undefined) {
          const chip = make("span", "chip");
          chip.style.background = `var(--hue-${hue})`;
          part.append(chip);
        }
        part.append(text);
        return part;
      });
      reading.replaceChildren(make("b", "value", head), ...parts);
    }

    drawing.tabIndex = 0;
    drawing.addEventListener("pointermove", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY);
      const { x, y } = point.matrixTransform(svg.getScreenCTM().inverse());
      const next = [nearest(kind.across, x), nearest(kind.down, y)];
      if (next[0] === column && next[1] === row && layer.childElementCount) return;
      [column, row] = next;
      show();
    });
    drawing.addEventListener("pointerleave", () => layer.replaceChildren());
    drawing.addEventListener("blur", () => layer.replaceChildren());
    drawing.addEventListener("keydown", (event) => {
      const rising = kind.down.length > 1 && kind.down[0] > kind.down[1] ? 1 : -1;
      const moves = {
        ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, rising], ArrowDown: [0, -rising],
        Home: [-Infinity, 0], End: [Infinity, 0],
      };
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
      if (move[1] && kind.down.length === 1) return;
      event.preventDefault();
      const keep = (place, count) => Math.max(0, Math.min(count - 1, place));
      column = keep(column + move[0], kind.across.length);
      row = keep(row + move[1], kind.down.length);
      show();
    });
  }

  // A line is shown while all entries that name it are pressed.
  function switchable(figure, series) {
    const entries = [...figure.querySelectorAll(".entry")];
    const isOn = (entry) => entry.getAttribute("aria-pressed") === "true";
    const press = (entry, on) => entry.setAttribute("aria-pressed", String(on));
    const alls = [...figure.querySelectorAll(".all")];
    const beside = (all) => [...all.parentElement.querySelectorAll(".entry")];

    function update() {
      const off = entries.filter((entry) => !isOn(entry)).flatMap((entry) => entry.dataset.lines.split(" "));
      series.forEach((line, number) => { line.hidden = off.includes(String(number)); });
      figure.querySelectorAll("[data-line]").forEach((part) => {
        part.style.display = off.includes(part.dataset.line) ? "none" : "";
      });
      alls.forEach((all) => { all.textContent = beside(all).every(isOn) ? "none" : "all"; });
    }

    entries.forEach((entry) => {
      press(entry, !("hidden" in entry.dataset));
      entry.addEventListener("click", () => { press(entry, !isOn(entry)); update(); });
    });
    alls.forEach((all) => all.addEventListener("click", () => {
      const on = !beside(all).every(isOn);
      beside(all).forEach((entry) => press(entry, on));
      update();
    }));
    if (entries.length) update();
  }

  // All numbers of a figure as they are in the data, not as they are shown.
  function csvOf(data) {
    const first = data.panels[0];
    const rows = [];
    if (data.films.length) {
      rows.push(["film", "frame", "caption"]);
      data.films.forEach(({ title, frames }) => frames.forEach(({ caption }, number) => {
        rows.push([title, number + 1, caption]);
      }));
    } else if (first && first.kind === "curves") {
      rows.push(["panel", "series", first.x, first.y, "low", "high"]);
      first.series.forEach((line) => line.x.forEach((x, place) => {
        rows.push([line.panel, line.series, x, line.y[place], line.low[place], line.high[place]]);
      }));
    } else if (first) {
      rows.push(["panel", ...first.y, ...(first.x ? [first.x] : []), first.value]);
      data.panels.forEach((panel) => panel.cells.forEach((cells, row) => cells.forEach((value, column) => {
        const across = panel.x ? [panel.columns[column]] : [];
        rows.push([panel.title, ...panel.rows[row], ...across, value]);
      })));
    }
    const cell = (value) => {
      const text = String(value ?? "");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  }

  // The drawings of a figure below each other, in the light colours, as one file.
  function svgOf(figure, data) {
    const sheet = mark("svg", "", { xmlns: SVG, "font-family": "sans-serif", "font-size": 10 });
    let [width, height] = [300, 0];
    const line = (text, weight, left = 8) => {
      height += 16;
      const words = mark("text", "", { x: left, y: height, "font-weight": weight, style: "fill: var(--ink)" });
      words.textContent = text;
      sheet.append(words);
      width = Math.max(width, left + 6.5 * text.length);
    };
    line(data.title, "bold");
    figure.querySelectorAll(".drawing").forEach((drawing) => {
      const panel = data.panels[Number(drawing.dataset.panel)];
      if (panel.title) line(panel.title, "normal");
      const copy = drawing.querySelector("svg").cloneNode(true);
      copy.querySelectorAll(".layer").forEach((layer) => layer.remove());
      copy.querySelectorAll("[data-line]").forEach((part) => part.style.display === "none" && part.remove());
      const [, , across, down] = copy.getAttribute("viewBox").split(" ").map(Number);
      for (const [key, value] of Object.entries({ x: 0, y: height + 6, width: across, height: down })) {
        copy.setAttribute(key, value);
      }
      sheet.append(copy);
      width = Math.max(width, across);
      height += down + 6;
    });
    figure.querySelectorAll(".legend").forEach((legend) => {
      const title = legend.querySelector(".legend-title");
      if (title) line(title.textContent, "normal");
      legend.querySelectorAll('.entry[aria-pressed="true"]').forEach((entry) => {
        const key = entry.querySelector("svg").cloneNode(true);
        line(entry.textContent, "normal", 44);
        for (const [name, value] of Object.entries({ x: 8, y: height - 8, width: 30, height: 10 })) {
          key.setAttribute(name, value);
        }
        sheet.append(key);
      });
    });
    figure.querySelectorAll(".row .frames").forEach((frames, number) => {
      line(data.films[number].title, "normal");
      [...frames.children].forEach((frame, place) => {
        const at = 8 + 70 * place;
        const words = mark("text", "", { x: at, y: height + 80, "font-size": 6, style: "fill: var(--ink)" });
        words.textContent = frame.textContent;
        const href = frame.querySelector("img").getAttribute("src");
        const style = "image-rendering: pixelated";
        sheet.append(mark("image", "", { x: at, y: height + 6, width: 64, height: 64, href, style }), words);
        width = Math.max(width, at + 70);
      });
      height += 90;
    });
    height += 8;
    sheet.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const probe = make("span");
    probe.style.colorScheme = "light";
    root.append(probe);
    const text = new XMLSerializer().serializeToString(sheet).replace(/var\((--[a-z0-9-]+)\)/g, (_, name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    });
    probe.remove();
    return text;
  }

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // some browsers refuse it to a file
      const area = make("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function saved(text, name, type) {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function takeable(figure, data) {
    const said = figure.querySelector(".taken");
    figure.querySelectorAll("[data-take]").forEach((button) => button.addEventListener("click", async () => {
      const kind = button.dataset.take;
      const text = kind === "csv" ? csvOf(data) : svgOf(figure, data);
      const type = { csv: "text/csv", svg: "image/svg+xml" }[kind];
      if ("save" in button.dataset) saved(text, `${data.name}.${kind}`, type);
      else await copied(text);
      said.textContent = "save" in button.dataset ? "saved" : "copied";
      setTimeout(() => { said.textContent = ""; }, 2000);
    }));
  }

  function playable(player, films) {
    const [slider, button] = [player.querySelector("input"), player.querySelector("button")];
    const screens = [...player.querySelectorAll(".screen")];
    const last = Math.max(0, ...films.map((film) => film.length - 1));
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    let timer = 0;
    slider.max = last;

    function show() {
      films.forEach((film, number) => {
        const frame = film[Math.min(Number(slider.value), film.length - 1)];
        if (!frame) return;
        screens[number].querySelector("img").src = frame.uri;
        screens[number].querySelector(".frame-words").textContent = frame.caption;
      });
      slider.setAttribute("aria-valuetext", [...new Set(films.map(
        (film) => (film[Math.min(Number(slider.value), film.length - 1)] || {}).caption))].join(", "));
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      button.textContent = "Play";
    }

    function play() {
      if (Number(slider.value) >= last) slider.value = 0;
      button.textContent = "Pause";
      timer = setInterval(() => {
        if (Number(slider.value) >= last) return stop();
        slider.value = Number(slider.value) + 1;
        show();
      }, 250);
    }

    const calm = () => {
      button.hidden = still.matches || last === 0;
      if (still.matches) stop();
    };
    still.addEventListener("change", calm);
    calm();
    button.addEventListener("click", () => (timer ? stop() : play()));
    slider.addEventListener("input", () => { stop(); show(); });
    show();
  }

  document.querySelectorAll("figure.figure").forEach((figure) => {
    const data = JSON.parse(figure.querySelector("script.data").textContent);
    figure.querySelectorAll(".drawing").forEach((drawing) => {
      const panel = data.panels[Number(drawing.dataset.panel)];
      readable(drawing, panel, drawing.parentElement.querySelector(".reading"));
    });
    if (data.panels.length) switchable(figure, data.panels[0].series || []);
    const player = figure.querySelector(".player");
    if (player) playable(player, data.films.map((film) => film.frames));
    takeable(figure, data);
  });

  const toggle = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const KEY = "sparring-theme";
  // A browser may refuse to store anything for a file.
  const recall = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* not stored */ } };
  const before = recall();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { toggle.textContent = isDark() ? "Use light theme" : "Use dark theme"; };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();

  // What is secondary is folded on a narrow screen, and open on a wide one and on paper.
  const folds = [...document.querySelectorAll("details.fold")];
  const narrow = matchMedia("(max-width: 40rem)");
  const fold = () => folds.forEach((it) => { it.open = !narrow.matches; });
  narrow.addEventListener("change", fold);
  addEventListener("beforeprint", () => folds.forEach((it) => { it.open = true; }));
  addEventListener("afterprint", fold);
  // A link into something folded opens it.
  const reveal = () => {
    let it = document.getElementById(location.hash.slice(1));
    const target = it;
    for (; it; it = it.parentElement) if (it.localName === "details") it.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  fold();
  reveal();
})();
