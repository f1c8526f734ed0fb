// Functions that the app runs in the browser.
window.dash_clientside = window.dash_clientside || {};
const ticked = (rows) => (Array.isArray(rows) ? rows.map((row) => row.id) : (rows && rows.ids) || []);
const same = (a, b) => a.length === b.length && a.every((id) => b.includes(id));
window.dash_clientside.saccade = {
  // Light or dark: the reader's choice, else that of the system.
  theme: function (clicks) {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    let look = system;
    try { look = localStorage.getItem("saccade-theme") || system; } catch (error) { /* storage is off */ }
    if (clicks) {
      look = look === "dark" ? "light" : "dark";
      try { localStorage.setItem("saccade-theme", look); } catch (error) { /* storage is off */ }
    }
    document.documentElement.dataset.theme = look;
    document.documentElement.dataset.agThemeMode = look;
    return [look, look === "dark" ? "light" : "dark"];
  },
  // Which figures show another range than the one they were drawn with.
  zoom: function (_, ids) {
    const zoomed = {};
    for (const id of ids) {
      const plot = document.querySelector(`#card-${CSS.escape(id.name)} .js-plotly-plot`);
      const full = plot && plot._fullLayout;
      if (!full) continue;
      zoomed[id.name] = Object.keys(full).filter((key) => /^[xy]axis\d*$/.test(key)).some((key) => {
        const axis = full[key], first = axis._rangeInitial0, last = axis._rangeInitial1;
        const size = Math.abs(axis.range[1] - axis.range[0]) || 1;
        const moved = (was, is) => was !== undefined && Math.abs(was - is) > 1e-6 * size;
        return moved(first, axis.range[0]) || moved(last, axis.range[1]);
      });
    }
    return zoomed;
  },
  // Ticked rows of the Overview become the picks of the address; the order of ticking stays.
  pick: function (rows, search, { name, most }) {
    const asked = new URLSearchParams(search), picks = asked.getAll(name), ids = ticked(rows);
    if (same(ids, picks)) return window.dash_clientside.no_update;
    const all = [...picks.filter((id) => ids.includes(id)), ...ids.filter((id) => !picks.includes(id))];
    asked.delete(name);
    for (const id of all.slice(0, most)) asked.append(name, id);
    return asked.size ? `?${asked}` : "";
  },
  // And the other way: the reader went back, or ticked more than can be compared.
  tick: function (search, rows, { name }) {
    const picks = new URLSearchParams(search).getAll(name);
    return same(ticked(rows), picks) ? window.dash_clientside.no_update : { ids: picks };
  },
  // A library that only some pages need, before its components come: the address of its script -> true.
  library: function (address) {
    const known = [...document.scripts].some((script) => script.dataset.library === address && script.dataset.ready);
    return known || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = script.dataset.library = address;
      script.onload = () => { script.dataset.ready = "yes"; resolve(true); };
      script.onerror = reject;
      document.head.append(script);
    });
  },
  // The picture of a panel, which the browser draws: as it is seen, or a figure for a paper.
  picture: function (job) {
    if (!job) return window.dash_clientside.no_update;
    const plot = document.querySelector(`#card-${CSS.escape(job.name)} .js-plotly-plot`);
    if (plot && job.figure) window.saccadePaper.svg(job.figure, `${job.file}.svg`, job.about, plot);
    else if (plot) window.saccadePaper.png(plot, job.file);
    return true;
  },
};

// Tables come as JSON, [tag, attributes, children], and are built once they can be seen: dashboards/live/trees.py.
(function () {
  const build = (part) => {
    if (typeof part === "string") return document.createTextNode(part);
    const [tag, attributes, children] = part;
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.map(build));
    return node;
  };
  const grow = (root) => {
    for (const holder of root.querySelectorAll("[data-tree]")) {
      const folded = holder.closest("details:not([open])");
      if (folded || holder.grown === holder.dataset.tree) continue;
      holder.grown = holder.dataset.tree;
      holder.replaceChildren(build(JSON.parse(holder.dataset.tree)));
    }
  };
  // What a reader has unfolded stays so when new data replace it.
  const unfolded = new Set();
  const name = (card) => location.pathname + card.id;
  document.addEventListener("toggle", (event) => {
    const card = event.target.closest("[id^='card-']");
    if (card && !event.target.matches(".export")) unfolded[event.target.open ? "add" : "delete"](name(card));
    grow(event.target);
  }, true);
  const follow = () => {
    for (const details of document.querySelectorAll("[id^='card-'] details:not([open]):not(.export)")) {
      details.open = unfolded.has(name(details.closest("[id^='card-']")));
    }
    grow(document);
  };
  new MutationObserver(follow).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-tree"],
  });
})();

// What only the clock changes, each second: how long ago a <time> was, and for how long the server has said nothing.
(function () {
  const said = (s) => (s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 172800
    ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`);
  let seen = "", quiet = 0; // seconds that this page was awake, which a sleeping laptop's are not
  setInterval(() => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const age = Math.round((Date.now() - Date.parse(time.dateTime)) / 1000);
      if (age >= 0) time.dataset.ago = `${said(age)} ago`; // of a clock that is ahead the text says so
    }
    const look = document.getElementById("as-of"), live = document.querySelector("#live input");
    if (!look) return;
    quiet = look.textContent === seen && live && live.checked ? quiet + 1 : 0;
    seen = look.textContent;
    if (quiet > look.dataset.patience) look.dataset.lost = `no answer from the server for ${said(quiet)}`;
    else delete look.dataset.lost;
  }, 1000);
})();
