// The page follows the reader's light or dark setting; figures are drawn light and repainted.
const dark = matchMedia("(prefers-color-scheme: dark)");
const plots = () => document.querySelectorAll(".plotly-graph-div");
function paint() {
  for (const plot of plots()) Plotly.relayout(plot, { template: dark.matches ? DARK : LIGHT });
}
if (dark.matches) paint();
dark.addEventListener("change", paint);
// A figure in a closed <details> had no width when it was drawn.
for (const fold of document.querySelectorAll("details")) {
  fold.addEventListener("toggle", () => fold.querySelectorAll(".plotly-graph-div").forEach((p) => Plotly.Plots.resize(p)));
}
