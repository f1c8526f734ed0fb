// Figures where there is little room, on a phone: titles go over several lines, names of rows stand above their marks,
// and names at line ends become a legend below. Works by itself on every figure of a page, as labels.js does.
(function () {
  "use strict";
  const NARROW = 560, SIDE = 10, LINE = "line:"; // px; labels.js says what such a name is
  const wide = { title: 9, subtitle: 6.4 }, tall = { title: 20, subtitle: 15 }; // px of a character and of a line

  // Text in lines of at most so many characters; words and tags stay whole.
  function lines(text, most) {
    const found = [""];
    let length = 0;
    for (const word of text.replaceAll("<br>", " ").match(/(<[^>]*>|[^<\s])+\s*/g) || []) {
      const size = word.replace(/<[^>]*>/g, "").length;
      if (length && length + size > most) { found.push(""); length = 0; }
      found[found.length - 1] += word;
      length += size;
    }
    return found;
  }

  function titled(full, width, changes) {
    let more = 0;
    for (const [kind, part] of [["title", full.title], ["subtitle", full.title.subtitle]]) {
      if (!part || !part.text) continue;
      const said = lines(part.text, Math.floor((width - SIDE) / wide[kind]));
      changes[kind === "title" ? "title.text" : "title.subtitle.text"] = said.join("<br>");
      more += (said.length - 1) * tall[kind];
    }
    changes["margin.t"] = full.margin.t + more;
    changes["title.y"] = 1 - (more ? 24 : 12) / (full.height + more);
    return more;
  }

  function squeeze(plot) {
    const full = plot._fullLayout, width = plot.clientWidth, box = plot.closest(".dash-graph, .plot");
    // Without a box it is the copy that plotly makes of a figure for a picture.
    if (!box || !width || width >= NARROW || plot.dataset.whole || plot.squeezed === plot.layout) return;
    plot.squeezed = plot.layout; // the same object until another figure is put here
    const changes = {}, names = new Set();
    let more = titled(full, width, changes);
    (full.annotations || []).forEach((label, i) => {
      if (!(label.name || "").startsWith(LINE)) { // words above one of several plots
        const room = Math.floor(width / 2 / wide.subtitle);
        if (label.yref === "paper" && !label.showarrow) changes[`annotations[${i}].text`] = lines(label.text, room).join("<br>");
        return;
      }
      names.add(label.name.slice(LINE.length));
      if (label.name === LINE) Object.assign(changes, { // a level has no entry in a legend
        [`annotations[${i}].ax`]: -2, [`annotations[${i}].xanchor`]: "right", [`annotations[${i}].yshift`]: 9,
      });
      else changes[`annotations[${i}].opacity`] = 0;
    });
    const legend = plot._fullData.filter((trace) => trace.hovertext && names.has(trace.name)).map((trace) => trace.index);
    if (names.size) changes["margin.r"] = SIDE;
    if (legend.length) {
      Object.assign(changes, { showlegend: true, legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" } });
      const longest = Math.max(...legend.map((index) => plot._fullData[index].name.length));
      const rows = Math.ceil(legend.length / (longest * 8 + 50 < (width - 70) / 2 ? 2 : 1)); // beside one another, or below
      changes["margin.b"] = full.margin.b + 24 * rows;
      more += 24 * rows;
    }
    for (const axis of Object.keys(full).filter((key) => /^yaxis\d*$/.test(key))) {
      const rows = plot._fullData.filter((trace) => trace.yaxis === axis.replace("yaxis", "y"));
      if ((full[axis].ticktext || []).length && rows.every((trace) => trace.type === "scatter")) {
        changes["margin.l"] = SIDE;
        Object.assign(changes, {
          [`${axis}.ticklabelposition`]: "inside top", [`${axis}.ticklabeloverflow`]: "allow",
        });
      }
    }
    const shown = { showlegend: plot._fullData.map((trace) => legend.includes(trace.index)) };
    if (more) box.style.height = `${changes.height = full.height + more}px`;
    plot.squeezing = window.Plotly.update(plot, legend.length ? shown : {}, changes);
  }

  window.saccadeNarrow = { lines, squeeze }; // for paper.js

  function follow() {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      if (plot.followed || !plot._fullLayout) continue;
      plot.followed = true;
      plot.on("plotly_afterplot", () => squeeze(plot));
      squeeze(plot);
    }
  }
  new MutationObserver(follow).observe(document.documentElement, { subtree: true, childList: true });
  follow();
})();
