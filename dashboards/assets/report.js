// Figures stand in the page as JSON, drawn for white paper. They are drawn when they come into sight (a folded one has no
// width before), in the colours of the reader's light or dark setting, and again when that changes.
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint(plot) {
  let text = plot.nextElementSibling.textContent;
  if (dark.matches) {
    for (const [light, other] of Object.entries(LOOK.colours)) text = text.replaceAll(light, other);
  }
  const figure = JSON.parse(text);
  figure.layout.template = dark.matches ? LOOK.dark : LOOK.light;
  Plotly.react(plot, figure.data, figure.layout, LOOK.config);
  plot.dataset.drawn = "yes";
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  const card = button.closest(".card"), plot = card.querySelector(".plot"), { save, file } = button.dataset;
  if (save === "png") return void saccadePaper.png(plot, file);
  const figure = JSON.parse(plot.nextElementSibling.textContent);
  figure.layout.template = LOOK.light;
  saccadePaper.svg(figure, `${file}.svg`, card.querySelector(".source").textContent, plot);
});
const plots = [...document.querySelectorAll(".plot")];
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    sight.unobserve(entry.target);
    paint(entry.target);
  }
}, { rootMargin: "600px" });
for (const plot of plots) sight.observe(plot);
dark.addEventListener("change", () => plots.filter((plot) => plot.dataset.drawn).forEach(paint));
addEventListener("beforeprint", () => plots.filter((plot) => plot.offsetWidth && !plot.dataset.drawn).forEach(paint));
