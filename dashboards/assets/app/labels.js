// Labels at line ends follow a zoom: each stands where its line leaves the picture, pushed apart as dashboards/labels.py
// does it, and is hidden while its line does not come by there. An annotation named "line:NAME" is the label of the trace
// NAME, "line:" that of a level line. Works by itself on every figure of a page, and so in what is saved of it.
(function () {
  "use strict";
  const LINE = "line:", CLEAR = "rgba(0,0,0,0)";
  const known = (y) => y !== null && Number.isFinite(+y);

  // The last of a line that is in sight: how far it comes, from 0 (left) to 1 (right edge), and its y there.
  function end(trace, [left, right]) {
    let last = null;
    for (let i = 0; i < trace.x.length; i++) {
      const at = (trace.x[i] - left) / (right - left);
      if (at > 1) {
        if (!last || last.i !== i - 1 || !known(trace.y[i])) return last;
        return { at: 1, y: last.y + (trace.y[i] - last.y) * (1 - last.at) / (at - last.at) };
      }
      if (known(trace.y[i])) last = { i, at, y: +trace.y[i] };
    }
    return last;
  }

  // The twin of push_apart: positions moved as little as possible until neighbours are `gap` apart.
  function pushed(wanted, gap, high) {
    const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
    const stacks = [], placed = [];
    for (const i of order) {
      let members = [i], bottom = Math.min(Math.max(wanted[i], 0), high);
      while (stacks.length && stacks.at(-1).bottom + stacks.at(-1).members.length * gap > bottom) {
        members = [...stacks.pop().members, ...members];
        const mean = members.reduce((sum, m, place) => sum + wanted[m] - gap * place, 0) / members.length;
        bottom = Math.max(0, Math.min(mean, high - gap * (members.length - 1)));
      }
      stacks.push({ members, bottom });
    }
    for (const { members, bottom } of stacks) members.forEach((m, place) => { placed[m] = bottom + gap * place; });
    return placed;
  }

  // Labels of one y axis -> what changes of their annotations.
  function moved(plot, yref, labels) {
    const axis = plot._fullLayout[yref.replace("y", "yaxis")], { range: [low, high], _length: height } = axis;
    const lines = plot._fullData.filter((trace) => trace.hovertext && trace.x && trace.yaxis === yref);
    const across = plot._fullLayout[((lines[0] || {}).xaxis || "x").replace("x", "xaxis")].range;
    const share = (x) => (x - across[0]) / (across[1] - across[0]);
    const farthest = Math.min(1, Math.max(...lines.flatMap((trace) => [...trace.x].map(share))));
    const changes = {}, shown = [];
    for (const [place, label] of labels) {
      const name = label.name.slice(LINE.length);
      const trace = lines.find((line) => line.name === name);
      const stop = trace ? end(trace, across) : { at: farthest, y: label.y };
      const visible = stop !== null && stop.at >= 0 && stop.y >= low && stop.y <= high;
      if (visible !== (label.visible !== false)) changes[`annotations[${place}].visible`] = visible;
      if (visible) shown.push({ place, label, y: stop.y, at: (stop.y - low) / (high - low) * height, far: stop.at });
    }
    const gap = 16 * Math.max(1, ...shown.map(({ label }) => label.text.split("<br>").length)); // theme.LABEL_GAP_PX
    const placed = pushed(shown.map(({ at }) => at), gap, height);
    shown.forEach(({ place, label, y, at, far }, i) => {
      const leader = far >= farthest - 1e-9 ? label.font.color : CLEAR, ay = at - placed[i];
      if (Math.abs(y - label.y) / (high - low) * height > 0.5) changes[`annotations[${place}].y`] = y;
      if (Math.abs(ay - label.ay) > 1.5) changes[`annotations[${place}].ay`] = ay;
      if (leader !== label.arrowcolor) changes[`annotations[${place}].arrowcolor`] = leader;
    });
    return changes;
  }

  function place(plot) {
    const axes = {};
    ((plot.layout || {}).annotations || []).forEach((label, i) => {
      if ((label.name || "").startsWith(LINE)) (axes[label.yref] = axes[label.yref] || []).push([i, label]);
    });
    const changes = Object.assign({}, ...Object.entries(axes).map(([yref, labels]) => moved(plot, yref, labels)));
    if (Object.keys(changes).length) window.Plotly.relayout(plot, changes);
  }

  function follow() {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      if (plot.labelled || !plot._fullLayout) continue;
      plot.labelled = true;
      for (const event of ["plotly_relayout", "plotly_afterplot"]) plot.on(event, () => place(plot));
    }
  }
  new MutationObserver(follow).observe(document.documentElement, { subtree: true, childList: true });
  follow();
})();
