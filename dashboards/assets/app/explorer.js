// The sample explorer: one sample at a time, a panel per configuration, the dropped patches faded.
// mount(root, source): source.index() and source.sample(entry) give documents of dashboards/explorer.py,
// source.picture(entry) the address of an image; source.read() and source.write(state) keep what is shown in the
// page's address. Text from data only ever becomes a text node.
"use strict";
window.SaccadeExplorer = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const AXES = {
    all: "all configurations", series: "strategies", layer: "layers", rank: "numbers of tokens", alone: "the others",
  };
  const mounted = new WeakMap();

  // --- small things -----------------------------------------------------------------------------------------------

  // make("p.note.big", {dir: "auto"}, "text", child, ...); null children are left out.
  function make(what, attributes = {}, ...children) {
    const [tag, ...classes] = what.split(".");
    const node = document.createElement(tag);
    if (classes.length) node.className = classes.join(" ");
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  function bits(base64, count) {
    const bytes = atob(base64);
    return Array.from({ length: count }, (_, i) => (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1);
  }

  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  // --- the picture ------------------------------------------------------------------------------------------------

  // The squares of the grid for which inside(i) holds, as one path: runs of a row in one rectangle.
  function squares(map, inside) {
    let path = "";
    for (let row = 0; row < map.rows; row++) {
      for (let column = 0; column < map.columns; column++) {
        if (!inside(map.token(row, column))) continue;
        const start = column;
        while (column + 1 < map.columns && inside(map.token(row, column + 1))) column++;
        path += `M${start} ${row}h${column + 1 - start}v1h${start - column - 1}z`;
      }
    }
    return path;
  }

  // The border between the squares that are inside and those that are not.
  function border(map, inside) {
    const at = (row, column) =>
      row >= 0 && column >= 0 && row < map.rows && column < map.columns && inside(map.token(row, column));
    let path = "";
    for (let row = 0; row <= map.rows; row++) {
      for (let column = 0; column <= map.columns; column++) {
        if (at(row, column) !== at(row - 1, column)) path += `M${column} ${row}h1`;
        if (at(row, column) !== at(row, column - 1)) path += `M${column} ${row}v1`;
      }
    }
    return path;
  }

  function shape(name, path) {
    const node = document.createElementNS(SVG, "path");
    node.setAttribute("class", name);
    node.setAttribute("d", path);
    return node;
  }

  // A TokenMap of workers/token_maps.py: which token lies where in the picture.
  function mapped([first, rows, columns, tile, ends, overview, image = 0]) {
    const token = tile
      ? (row, column) => {
        const number = Math.floor(row / tile) * (columns / tile) + Math.floor(column / tile);
        return first + (number * tile + (row % tile)) * tile + (column % tile);
      }
      : (row, column) => first + row * (columns + ends) + column;
    return { rows, columns, overview, image, token };
  }

  // What the model saw, what was dropped of it, and where the answer is: once for each map. Of several images the
  // picture is a column, all as large.
  function seen(sample, cell, url) {
    const maps = sample.maps.map(mapped);
    const kept = cell.kept !== undefined && maps.length ? bits(cell.kept, cell.visual) : null;
    const images = maps.reduce((most, map) => Math.max(most, map.image + 1), 1);
    const frames = (maps.length ? maps : [null]).map((map) => {
      const frame = framed(map, sample, kept, url, images);
      const own = map ? maps.filter((other) => other.image === map.image) : [];
      const shape_of = own.find((other) => !other.overview) || map;
      if (shape_of) frame.style.aspectRatio = Math.min(3, Math.max(1 / 3, shape_of.columns / shape_of.rows));
      const part = [images > 1 ? `image ${map.image + 1}` : "", own.length > 1 ? (map.overview ? "as a whole" : "in tiles") : ""];
      if (part.some(Boolean)) frame.append(make("span.part", {}, part.filter(Boolean).join(", ")));
      return frame;
    });
    return frames.length > 1 ? make("div.parts", {}, ...frames) : frames[0];
  }

  function framed(map, sample, kept, url, images) {
    const frame = make("div.seen");
    if (url) {
      const picture = make("img", { src: url, alt: "", loading: "eager", draggable: "false" });
      if (map && images > 1) {
        picture.style.height = `${100 * images}%`;
        picture.style.top = `${-100 * map.image}%`;
      }
      frame.append(picture);
    } else frame.classList.add("blank");
    if (map) {
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${map.columns} ${map.rows}`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      if (kept) {
        svg.append(shape(url ? "dropped" : "dropped bare", squares(map, (i) => !kept[i])));
        svg.append(shape("edge", border(map, (i) => kept[i]))); // white paper, faded, is white paper
      }
      if (sample.patches) {
        const answer = new Set(sample.patches);
        const path = border(map, (i) => answer.has(i));
        svg.append(shape("halo", path), shape("truth", path));
      }
      frame.append(svg);
    }
    if (!kept) frame.append(make("span.over", {}, "kept positions not recorded"));
    return frame;
  }

  // --- a panel ----------------------------------------------------------------------------------------------------

  function said(cell, sample) {
    if (!sample.choices.length && cell.answer) return cell.answer.length > 40 ? `${cell.answer.slice(0, 39)}…` : cell.answer;
    if (cell.parsed) return cell.parsed;
    return cell.answer ? "no option read" : "no answer";
  }

  function panel(index, sample, place, axis, url) {
    const point = index.points[place];
    const cell = sample.cells[place];
    const base = sample.cells[index.baseline];
    const title = { layer: `layer ${point.layer}`, rank: `${point.rank} kept` }[axis] || point.series;
    const name = point.baseline ? "un-pruned" : axis === "all" || axis === "alone" ? point.label : title;
    if (!cell) {
      return make("figure.panel.absent", { title: point.label },
        make("figcaption", {}, make("div", {}, make("span.name", { dir: "auto" }, name))),
        make("div.seen.blank", {}, make("span.over", {}, "not answered yet")), make("div"));
    }
    const flipped = base && !point.baseline && cell.score !== base.score;
    const other = base && !point.baseline && !flipped && said(cell, sample) !== said(base, sample);
    const caption = make("figcaption", {},
      make("div", {},
        make("span.mark", { "aria-label": cell.correct ? "right" : "wrong" }, cell.correct ? "✓" : "✗"),
        make("span.name", { dir: "auto", title: point.label }, name)),
      make("div", {},
        make("span.said", {}, "→ ", make("bdi", {}, said(cell, sample))),
        flipped ? make("strong.flip", {}, cell.score > base.score ? (cell.correct ? "flipped to right" : "better") : cell.correct ? "worse" : "flipped") : null,
        other ? make("span.other", {}, "other answer") : null));
    const tokens = cell.tokens === null ? "–" : cell.tokens.toLocaleString("en");
    const facts = [`${tokens} of ${cell.visual.toLocaleString("en")} kept`];
    if (sample.patches && sample.maps.length && cell.kept !== undefined && !point.baseline) {
      const kept = bits(cell.kept, cell.visual);
      facts.push(`${sample.patches.filter((i) => kept[i]).length} of ${sample.patches.length} that hold the answer`);
    }
    const drawn = sample.maps.reduce((sum, [, rows, columns]) => sum + rows * columns, 0);
    const more = drawn ? cell.visual - drawn : 0;
    if (more > 0) facts.push(`${more.toLocaleString("en")} of all are not drawn: they show enlarged parts, or end rows`);
    if (cell.score % 1) facts.push(`score ${cell.score_text}`);
    return make(`figure.panel.${cell.correct ? "right" : "wrong"}`, { "data-point": point.key },
      caption,
      seen(sample, cell, url),
      make("div", {},
        make("p.facts", {}, facts.join(" · ")),
        point.chosen_by ? make("p.chosen", {}, point.chosen_by) : null,
        cell.answer === said(cell, sample) ? null : make("pre.answer", { dir: "auto", tabindex: "0" }, cell.answer)));
  }

  // --- the whole --------------------------------------------------------------------------------------------------

  async function mount(root, source) {
    if (mounted.has(root)) mounted.get(root).stop();
    const stop = new AbortController();
    let index = null, state = source.read(), listed = [], shown = 0;
    const api = { source, stop: () => stop.abort(), refresh, follow };
    mounted.set(root, api);

    const axis = make("select", { "aria-label": "compare", onchange: () => choose({ axis: axis.value, group: null }) });
    const group = make("select", { "aria-label": "at", onchange: () => choose({ group: group.value }) });
    const sort = make("select", { "aria-label": "order", onchange: () => choose({ sort: sort.value }) },
      make("option", { value: "flips" }, "most flips first"), make("option", { value: "file" }, "as in the data"));
    const only = make("input", { type: "checkbox", onchange: () => choose({ flips: only.checked }) });
    const place = make("output.place");
    const list = make("ol.samples", { "aria-label": "samples" });
    const main = make("section.sample", { "aria-live": "polite" });
    const previous = make("button", { type: "button", title: "left arrow", onclick: () => step(-1) }, "← Previous");
    const next = make("button", { type: "button", title: "right arrow", onclick: () => step(1) }, "Next →");
    const experiment = make("select", { "aria-label": "experiment", onchange: () => source.choose(experiment.value) });
    const bar = make("div.bar", {}, previous, place, next,
      make("label", {}, "experiment ", experiment), make("label.switch", { title: "f" }, only, " flips only"),
      make("label", {}, "order ", sort), make("label", {}, "compare ", axis), make("label", {}, "at ", group));
    const note = make("p.note");
    root.replaceChildren(make("div.explorer", {}, bar, note, make("div.columns", {}, list, main)));

    document.addEventListener("keydown", (event) => {
      if (!root.isConnected) return stop.abort();
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
        if (event.target.type !== "checkbox") return;
      }
      const key = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
      if (key) step(key);
      else if (event.key === "f") choose({ flips: !state.flips });
      else return;
      event.preventDefault();
    }, { signal: stop.signal });
    window.addEventListener("hashchange", follow, { signal: stop.signal });
    await refresh();
    return api;

    async function refresh() {
      const found = await source.index();
      if (stop.signal.aborted) return;
      index = found;
      for (const sample of index.samples) sample.flipped = bits(sample.flips, index.points.length);
      fill();
    }

    // The address says something else than before.
    function follow() {
      const asked = source.read();
      if (!index || Object.keys(asked).every((name) => asked[name] === state[name])) return;
      state = asked;
      fill();
    }

    function choose(change) {
      state = { ...state, ...change };
      fill();
    }

    function current() {
      const groups = index.groups.filter((item) => item.axis === state.axis);
      return groups.find((item) => item.name === state.group) || groups[0];
    }

    function fill() {
      const axes = [...new Set(index.groups.map((item) => item.axis))];
      if (!axes.includes(state.axis)) state.axis = axes[0] || null;
      if (state.point) { // a link to one configuration
        const place = index.points.findIndex((point) => point.key === state.point);
        const home = index.groups.find((item) => item.points.includes(place));
        state = { ...state, point: null, ...(home && { axis: home.axis, group: home.name }) };
      }
      options(axis, axes.map((name) => [name, AXES[name]]), state.axis);
      const groups = index.groups.filter((item) => item.axis === state.axis);
      const chosen = current();
      state.group = chosen ? chosen.name : null;
      options(group, groups.map((item) => [item.name, item.name]), chosen ? chosen.name : "");
      group.parentElement.hidden = state.axis === "all" || state.axis === "alone";
      only.checked = state.flips;
      sort.value = state.sort;
      const names = index.sources || [];
      options(experiment, names.map((name) => [name, name]), index.source);
      experiment.parentElement.hidden = names.length < 2;
      const points = chosen ? chosen.points : [];
      listed = index.samples.map((sample) => ({
        sample, flips: points.reduce((sum, point) => sum + sample.flipped[point], 0),
      }));
      const flipping = listed.filter((item) => item.flips).length;
      if (state.flips && flipping) listed = listed.filter((item) => item.flips);
      if (state.sort === "flips") listed.sort((a, b) => b.flips - a.flips); // stable: ties as in the data
      note.replaceChildren(words(points, flipping));
      const wanted = listed.findIndex((item) => item.sample.id === state.sample);
      list.replaceChildren(...listed.map((item, i) => row(item, i, points.length)));
      show(wanted < 0 ? 0 : wanted);
    }

    function words(points, flipping) {
      if (!points.length) return "No configuration passes the filters: only the un-pruned model is shown.";
      const parts = [
        `${plural(index.samples.length, "image question")}, ` +
          (flipping ? `${flipping.toLocaleString("en")} with a flipped answer here` : "no answer flipped here"),
      ];
      if (index.waiting) parts.push(`${plural(index.waiting, "question")} not answered yet`);
      if (index.texts) parts.push(`${plural(index.texts, "text-only question")} not listed: nothing is pruned there`);
      if (index.left_out) parts.push(index.left_out);
      return `${parts.join("; ")}. Faded: dropped. Frame: green and ✓ right, orange and ✗ wrong.` +
        " Dotted outline: the patches that hold the answer, where the data knows them.";
    }

    function options(select, pairs, value) {
      select.replaceChildren(...pairs.map(([name, text]) => make("option", { value: name }, text)));
      select.value = value;
    }

    function row(item, i, of) {
      const count = item.sample.failed ? "failed" : item.flips ? `${item.flips} of ${of}` : "–";
      return make("li", {}, make("button", { type: "button", onclick: () => show(i) },
        make("span.id", { dir: "auto" }, item.sample.id), make("span.count", {}, count),
        make("span.question", { dir: "auto" }, item.sample.question)));
    }

    function step(by) {
      if (listed.length) show((shown + by + listed.length) % listed.length);
    }

    async function show(i) {
      shown = i;
      const item = listed[i];
      place.textContent = item ? `${i + 1} of ${listed.length}` : "none";
      previous.disabled = next.disabled = listed.length < 2;
      list.querySelector("[aria-current]")?.removeAttribute("aria-current");
      if (!item) return main.replaceChildren(make("p.note", {}, "No question to show yet."));
      state.sample = item.sample.id;
      const button = list.children[i].firstChild;
      button.setAttribute("aria-current", "true");
      // Only the list moves, never the page.
      const top = button.offsetTop - list.offsetTop;
      if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight) {
        list.scrollTop = top - list.clientHeight / 3;
      }
      source.write(state);
      let sample;
      try {
        sample = await source.sample(item.sample);
      } catch (error) {
        console.error(error);
        if (listed[shown] === item) {
          main.replaceChildren(make("p.notice", {}, `Sample ${item.sample.id} could not be read.`));
        }
        return;
      }
      if (listed[shown] !== item || stop.signal.aborted) return; // the reader has gone on
      draw(sample, item);
      const after = listed[i + 1];
      if (after) source.sample(after.sample).catch(() => null); // ready before it is asked for
    }

    function draw(sample, item) {
      const chosen = current();
      const url = item.sample.picture ? source.picture(item.sample) : null;
      const places = chosen ? chosen.points : [];
      const all = index.baseline === null ? places : [index.baseline, ...places];
      const letters = "ABCDEFGHIJ";
      const right = sample.choices[letters.indexOf(sample.label)];
      main.replaceChildren(...[
        make("div.head", {},
          make("h2", { dir: "auto" }, `Sample ${sample.id}`,
            make("small", {}, chosen ? `${AXES[chosen.axis]} at ${chosen.name}`.replace(/^(all|the others).*/, chosen.name) : ""),
            make("small.right", { dir: "auto" }, `right answer ${sample.label}${right ? `: ${right}` : ""}`)),
          make("pre.question", { dir: "auto", tabindex: "0" }, sample.question),
          sample.about ? make("p.kind", { dir: "auto" }, sample.about) : null,
          sample.failure ? make("pre.failure", { dir: "auto", tabindex: "0" },
            `This sample failed. ${sample.failure.kind}: ${sample.failure.message}`) : null),
        url || sample.failure ? null : make("p.note", {}, "No picture was recorded of this question: the same " +
          "`saccade run` with a higher --pictures does it. Grey: dropped."),
        make("div.panels", {}, ...Object.keys(sample.cells).length
          ? all.map((point) => panel(index, sample, point, chosen ? chosen.axis : "all", url)) : []),
      ].filter((node) => node !== null));
    }
  }

  // --- where the data comes from ----------------------------------------------------------------------------------

  // A folder beside the page: a script per sample, because pages opened from a disk may load scripts but not data.
  const OPEN = { sample: null, axis: null, group: null, flips: true, sort: "flips", point: null };
  function parsed(text) {
    const found = new URLSearchParams(text);
    return {
      ...OPEN, sample: found.get("sample"), axis: found.get("axis"), group: found.get("group"),
      flips: found.get("flips") !== "0", sort: found.get("sort") === "file" ? "file" : "flips",
      point: (found.get("config") || "").split(":").pop() || null,
    };
  }
  function written(state, into) {
    const own = { sample: state.sample, axis: state.axis, group: state.group, flips: state.flips ? null : "0",
      sort: state.sort === "file" ? "file" : null, config: null };
    for (const [name, value] of Object.entries(own)) {
      if (value === null) into.delete(name);
      else into.set(name, value);
    }
    return into.toString();
  }

  const waiting = new Map();
  function receive(key, sample) {
    waiting.get(key)?.(sample);
  }
  function folder(index, path) {
    const known = new Map();
    return {
      index: async () => index,
      read: () => parsed(location.hash.slice(1)),
      write: (state) => history.replaceState(history.state, "", `#${written(state, new URLSearchParams())}`),
      picture: (entry) => `${path}/${entry.key}.webp`,
      sample(entry) {
        if (!known.has(entry.key)) {
          known.set(entry.key, new Promise((resolve, reject) => {
            waiting.set(entry.key, resolve);
            document.head.append(make("script", { src: `${path}/${entry.key}.js`, onerror: () => reject(new Error("gone")) }));
          }));
        }
        return known.get(entry.key);
      },
    };
  }

  // A running `saccade dashboard`: what is shown stands in the query, beside the filter bar's values.
  function server(path) {
    const known = new Map();
    let name = "";
    const load = async (what, values) => {
      const answer = await fetch(`${path}/${what}?${new URLSearchParams(values)}`);
      if (!answer.ok) throw new Error(answer.statusText);
      return answer.json();
    };
    return {
      async index() {
        known.clear();
        const index = await load("index", location.search.slice(1));
        name = index.source;
        return index;
      },
      read: () => parsed(location.search),
      write(state) {
        const search = `?${written(state, new URLSearchParams(location.search))}`;
        if (search !== location.search) window.dash_clientside.set_props("url", { search });
      },
      choose(experiment) {
        const query = new URLSearchParams(location.search);
        query.set("experiment", experiment);
        window.dash_clientside.set_props("url", { search: `?${query}` });
      },
      picture: (entry) => `${path}/picture?${new URLSearchParams({ experiment: name, sample: entry.id })}`,
      sample(entry) {
        if (!known.has(entry.id)) known.set(entry.id, load("sample", { experiment: name, sample: entry.id }));
        return known.get(entry.id);
      },
    };
  }

  // Called by the app when the address or the data have changed.
  let last = "";
  function live(search, version, filters) {
    const root = document.getElementById("explorer-root");
    const api = mounted.get(root);
    const query = new URLSearchParams(search);
    const now = JSON.stringify([version, filters.map((name) => query.getAll(name))]);
    if (!api) mount(root, server("explorer"));
    else if (now !== last) api.refresh();
    else api.follow();
    last = now;
    return now;
  }

  return { mount, folder, receive, live };
})();

window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.saccade = Object.assign(window.dash_clientside.saccade || {}, {
  explore: (search, version, filters) => window.SaccadeExplorer.live(search, version, filters),
});
