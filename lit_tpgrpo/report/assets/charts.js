"use strict";
// Curves and stage times, drawn when they come into view.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const line = style.getPropertyValue("--line").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style.getPropertyValue("--muted").trim(), size: 12 }, axis };
  }

  function layout(extra) {
    const { axis, ...common } = theme();
    return {
      ...common, hovermode: "closest", margin: { l: 48, r: 14, t: 38, b: 40 }, ...extra,
      xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
    };
  }

  function draw(box, traces, extra) {
    drawn.set(box, [traces, extra]);
    return Plotly.react(box, traces, layout(extra), { displaylogo: false, responsive: true, displayModeBar: false });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); entry.target.draw(); }
    }
  }, { rootMargin: "300px" });

  function later(box, make) { box.draw = make; seen.observe(box); }

  function curve(chart, parent) {
    const box = document.createElement("div");
    box.className = "chart";
    box.dataset.metric = chart.name;
    parent.append(box);
    const several = chart.traces.filter((t) => t.name).length > 1;
    later(box, () => draw(box, chart.traces, {
      title: { text: chart.title, font: { size: 14 }, x: 0.02, xanchor: "left" }, height: 260, showlegend: several,
      legend: { orientation: "h", y: -0.22 }, xaxis: { title: { text: "optimizer step", standoff: 6 } },
    }));
  }

  function curves() {
    const parent = document.getElementById("first-curves");
    if (!parent) return;
    for (const chart of data.curves.filter((c) => c.first)) curve(chart, parent);
    const select = document.getElementById("other-curve");
    for (const chart of data.curves.filter((c) => !c.first)) select.append(new Option(chart.title, chart.name));
    select.addEventListener("change", () => {
      const chosen = document.getElementById("chosen-curve");
      chosen.replaceChildren();
      for (const chart of data.curves) if (chart.name === select.value) curve(chart, chosen);
    });
  }

  function stages() {
    const totals = document.getElementById("stage-totals");
    if (!totals) return;
    const bars = { barmode: "stack", legend: { orientation: "h", y: 1.12, traceorder: "normal" } };
    const runs = data.stages.rounds.length;
    later(totals, () => draw(totals, data.stages.totals, {
      ...bars, height: 150 + 26 * runs, margin: { l: 20, r: 14, t: 48, b: 40 }, xaxis: { title: { text: "seconds, whole run" } },
      yaxis: { autorange: "reversed", visible: runs > 1 }, legend: { orientation: "h", y: 1.35, traceorder: "normal" },
    }));
    const box = document.getElementById("stage-rounds");
    const select = document.getElementById("stage-run");
    const one = () => draw(box, data.stages.rounds[Number(select?.value ?? 0)], {
      ...bars, height: 300, xaxis: { title: { text: "round" } }, yaxis: { title: { text: "seconds" } },
    });
    select?.addEventListener("change", one);
    later(box, one);
  }

  function roundTables() {
    const select = document.getElementById("round-run");
    select?.addEventListener("change", () => {
      document.querySelectorAll(".round-table").forEach((table, n) => { table.hidden = n !== Number(select.value); });
    });
  }

  curves();
  stages();
  roundTables();
  dark.addEventListener("change", () => { for (const [box, [traces, extra]] of drawn) if (box.isConnected) draw(box, traces, extra); });
  window.addEventListener("load", () => { document.body.dataset.readyMs = Math.round(performance.now()); });
})();
