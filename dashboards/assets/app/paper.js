// A panel as a paper's column holds it, as SVG: 3.25 in wide, text of 8 pt, without a title, its source in the metadata. Drawn
// here, so that a report from the disk can do it too. Names of rows stand above their marks, as on a phone. And words to copy.
window.saccadePaper = (function () {
  "use strict";
  const INCHES = 3.25, WIDTH = 351, PX = 12, LETTER = 7.5, SHAPE = 0.72; // text of 12 px is 8 pt where 351 px are 3.25 in
  const LINE = "line:", MOST = 18; // letters of a line of a name
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
  const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

  function save(content, file, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // The layout of a figure on paper; `seen` is the plot on the screen, whose zoom is kept.
  function laid(figure, seen) {
    const layout = figure.layout, title = (layout.title || {}).text || "";
    const all = axes(layout), rows = all.filter((key) => (layout[key].ticktext || []).length);
    const top = ((layout.margin || layout.template.layout.margin || {}).t || 72) - PX;
    if (!rows.length && all.filter((key) => key[0] === "y").length < 2) layout.height = SHAPE * WIDTH;
    else layout.height -= top;
    layout.margin = { ...layout.template.layout.margin, ...layout.margin, t: PX };
    layout.title = { text: "" };
    layout.width = WIDTH;
    layout.font = { ...layout.template.layout.font, ...layout.font, size: PX };
    let longest = 0;
    for (const label of layout.annotations || []) {
      label.font = { ...label.font, size: PX };
      if (!(label.name || "").startsWith(LINE)) continue;
      const said = window.saccadeNarrow.lines(label.text, MOST);
      longest = Math.max(longest, ...said.map((line) => line.replace(/<[^>]*>/g, "").trim().length));
      Object.assign(label, { text: said.join("<br>"), ax: 14 });
    }
    if (longest) layout.margin.r = 18 + LETTER * longest;
    for (const key of all) {
      if (layout[key].dtick) Object.assign(layout[key], { dtick: undefined, nticks: 7, tickangle: 0 });
      const axis = layout[key], full = ((seen || {})._fullLayout || {})[key];
      axis.title = { ...axis.title, font: { size: PX, color: layout.font.color } };
      if (full && full.range && full.type !== "category") Object.assign(axis, { range: [...full.range], autorange: false });
    }
    const y = layout.yaxis;
    const letters = Math.floor(0.7 * layout.height / LETTER);
    if (y && !rows.length && !y.title.text) y.title.text = window.saccadeNarrow.lines(title, letters).join("<br>");
    return layout;
  }

  async function svg(figure, file, about, seen) {
    const box = document.createElement("div");
    box.className = "plot on-paper";
    const layout = laid(figure, seen);
    if (!(layout.yaxis || {}).ticktext) box.dataset.whole = "yes";
    document.body.append(box);
    try {
      await window.Plotly.newPlot(box, figure.data, layout, { staticPlot: true });
      window.saccadeNarrow.squeeze(box);
      await box.squeezing;
      const height = parseFloat(box.style.height) || figure.layout.height;
      const address = await window.Plotly.toImage(box, { format: "svg", width: WIDTH, height });
      const text = decodeURIComponent(address.slice(address.indexOf(",") + 1));
      const size = `width="${INCHES}in" height="${height * INCHES / WIDTH}in"`;
      const sized = text.replace(/<svg([^>]*)>/, (_, rest) =>
        `<svg${rest.replace(/ (width|height)="[^"]*"/g, "")} ${size}><metadata>${escaped(about)}</metadata>`);
      save(sized, file, "image/svg+xml");
    } finally {
      box.remove();
    }
  }

  function png(plot, filename) {
    return window.Plotly.downloadImage(plot, {
      format: "png", filename, width: plot.clientWidth, height: plot.clientHeight, scale: 2,
    });
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    const open = event.isTrusted ? document.querySelectorAll("details.export[open]") : []; // not plotly's own download
    for (const menu of open) if (!menu.contains(event.target)) menu.open = false;
    if (!button) return;
    const words = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(words.textContent);
      button.textContent = "copied";
    } catch (error) { // not allowed here: the reader's own Ctrl-C does it
      getSelection().selectAllChildren(words);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
  return { svg, png };
})();
