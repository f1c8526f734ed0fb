// Names and keys for readers who do not see the page, or do not point at it: what Dash's own components leave out.
(function () {
  "use strict";
  let opener = null; // where the reader was when the drawer opened

  function name() {
    // A list of check boxes is no list box: its options would be without a name and hold a second control.
    for (const part of document.querySelectorAll(".dash-checklist[role], .dash-checklist [role='option']")) {
      part.removeAttribute("role");
      part.removeAttribute("aria-selected");
    }
    // A drop-down is its button, called as its label is; the hidden field before it takes no focus.
    for (const field of document.querySelectorAll(".dash-dropdown-focus-target[tabindex='0']")) {
      const button = field.parentElement.querySelector("button"), label = field.closest("label");
      field.tabIndex = -1;
      button.tabIndex = 0;
      if (!label) continue;
      label.id = label.id || `label-${button.id}`;
      button.setAttribute("aria-labelledby", label.id);
    }
    for (const thumb of document.querySelectorAll(".control.slider [role='slider']:not([aria-label])")) {
      thumb.setAttribute("aria-label", thumb.closest(".control").firstElementChild.textContent);
    }
    for (const plot of document.querySelectorAll(".card .js-plotly-plot")) {
      const text = [...plot.querySelectorAll(".gtitle, .gtitle-subtitle")].map((line) => line.textContent).join(", ");
      if (plot.getAttribute("aria-label") === text) continue;
      plot.setAttribute("role", "figure"); // what it shows stands below it as a table
      plot.setAttribute("aria-label", text);
    }
    const heading = document.querySelector("main h1");
    if (heading) document.title = `${heading.textContent} · Saccade`;
    const drawer = document.getElementById("details");
    if (drawer) attend(drawer, drawer.classList.contains("open"));
  }

  // The focus goes into the drawer when it opens, and back when it is closed.
  function attend(drawer, open) {
    if (open === Boolean(drawer.attended)) return;
    drawer.attended = open;
    if (open) {
      opener = document.activeElement;
      drawer.focus();
    } else if (opener && (document.activeElement === document.body || drawer.contains(document.activeElement))) {
      opener.focus();
    }
  }

  document.addEventListener("keydown", (event) => {
    const close = document.getElementById("details-close");
    if (event.key === "Escape" && close) close.click();
  });
  let asked = false; // a page that is drawn changes thousands of times
  new MutationObserver(() => {
    if (!asked) requestAnimationFrame(() => { asked = false; name(); });
    asked = true;
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
})();
