"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.documentElement;
  root.classList.add("on");

  const words = (value) => (value === null ? "none" : String(Number(Number(value).toPrecision(6))));

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

  // Each kind of drawing has stops: columns, and rows where there are any.
  const kinds = {
    curves(data) {
      const stops = new Map();
      data.series.forEach((series) => {
        series.x.forEach((x, place) => {
          if (series.at[place].includes(null)) return;
          if (!stops.has(x)) stops.set(x, { x, at: series.at[place][0], points: [] });
          stops.get(x).points.push({ series, place });
        });
      });
      const sorted = [...stops.values()].sort((one, other) => one.at - other.at);
      const [, top, , bottom] = data.box;
      return {
        across: sorted.map((stop) => stop.at),
        down: [0],
        say(column) {
          const stop = sorted[column];
          const values = stop.points.map(({ series, place }) => {
            const interval = series.low.length
              ? ` [${words(series.low[place])}, ${words(series.high[place])}]`
              : "";
            const unit = data.unit ? ` ${data.unit}` : "";
            return { hue: series.hue, text: `${series.name} ${words(series.y[place])}${unit}${interval}` };
          });
          return { head: `${data.x} ${words(stop.x)}`, values };
        },
        draw(column) {
          const stop = sorted[column];
          const line = mark("path", "pointer", { d: `M${stop.at} ${top}V${bottom}` });
          const spots = stop.points.map(({ series, place }) =>
            mark("circle", "spot", { cx: series.at[place][0], cy: series.at[place][1], r: 3.6 }));
          return [line, ...spots];
        },
      };
    },
    cells(data) {
      const gap = (places) => Math.abs(places[1] - places[0]) || 20;
      return {
        across: data.left,
        down: data.top,
        say(column, row) {
          const head = `${data.y} ${data.rows[row]}, ${data.x} ${data.columns[column]}`;
          return { head, values: [{ text: `${data.value} ${words(data.cells[row][column])}` }] };
        },
        draw(column, row) {
          const [width, height] = [gap(data.left), gap(data.top)].map((side) => Math.max(side, 5));
          const corner = { x: data.left[column] - width / 2, y: data.top[row] - height / 2 };
          return [mark("rect", "spot", { ...corner, width, height })];
        },
      };
    },
  };

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
    const reading = figure.querySelector(".reading");
    figure.querySelectorAll(".drawing").forEach((drawing) => {
      readable(drawing, data.panels[Number(drawing.dataset.panel)], reading);
    });
    const player = figure.querySelector(".player");
    if (player) playable(player, data.films);
  });

  const toggle = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const KEY = "sparring-theme";
  // Browsers may keep nothing for a file, and say so by an error.
  const recall = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* until it is closed */ } };
  const before = recall();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => toggle.setAttribute("aria-pressed", String(isDark()));
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep(root.dataset.theme);
    tell();
  });
  system.addEventListener("change", tell);
  tell();
})();
