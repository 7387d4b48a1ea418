"use strict";
// The browser of solutions. Texts of models are only ever set as textContent: nothing of them is read as HTML.
(() => {
  const LABELS = {
    correct: "✓ correct", incorrect: "✗ incorrect", matched: "≈ matched", unmatched: "○ unmatched", abstained: "? abstained",
  };
  const PER_PAGE = 20;
  const data = JSON.parse(document.getElementById("solution-data").textContent);
  const form = document.getElementById("filters");
  document.body.dataset.solutions = data.solutions.length;
  if (!form) return;
  const fields = Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e]));
  const list = document.getElementById("list");
  let shown = [];
  let page = 0;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  const labelled = (solution) => solution.thoughts?.filter((t) => t[0]) ?? [];
  const textOf = (solution) => (solution.thoughts ?? []).map((t) => t[3].join("")).join("");

  function fill(select, values, name = String) {
    for (const value of values) select.append(new Option(name(value), value));
  }

  function fillFilters() {
    const distinct = (key) => [...new Set(data.solutions.map(key).filter((v) => v !== undefined))];
    fill(fields.run, distinct((s) => s.run), (n) => data.runs[n]);
    fill(fields.round, distinct((s) => s.round).sort((a, b) => a - b));
    fill(fields.outcome, distinct((s) => s.outcome).sort());
    const used = new Set(data.solutions.flatMap((s) => labelled(s).map((t) => t[0])));
    fill(fields.label, Object.keys(LABELS).filter((label) => used.has(label)), (label) => LABELS[label]);
    form.querySelector('[data-filter="run"]').hidden = data.runs.length < 2;
    form.querySelector('[data-filter="round"]').hidden = fields.round.options.length < 2;
    form.querySelector('[data-filter="kept"]').hidden = !data.solutions.some((s) => s.kept !== undefined);
    for (const label of form.querySelectorAll("label[hidden]")) label.style.display = "none";
    const legend = document.getElementById("legend");
    for (const label of Object.keys(LABELS)) if (used.has(label)) legend.append(element("span", `chip ${label}`, LABELS[label]));
  }

  function matches(solution) {
    const [uid, prompt] = data.problems[solution.problem];
    const has = (text, words) => text.toLowerCase().includes(words.toLowerCase());
    const { run, round, outcome, label, kept, problem, text } = fields;
    return (!run.value || solution.run === Number(run.value))
      && (!round.value || solution.round === Number(round.value))
      && (!outcome.value || solution.outcome === outcome.value)
      && (!label.value || labelled(solution).some((t) => t[0] === label.value))
      && (!kept.value || solution.kept === (kept.value === "yes"))
      && (!problem.value || uid === problem.value || has(uid, problem.value) || has(prompt, problem.value))
      && (!text.value || has(textOf(solution), text.value));
  }

  const ORDERS = {
    thoughts: (s) => -labelled(s).length,
    long: (s) => -textOf(s).length,
    high: (s) => -(s.advantage ?? -Infinity),
    low: (s) => s.advantage ?? Infinity,
  };

  function apply() {
    shown = data.solutions.filter(matches);
    const key = ORDERS[fields.order.value];
    if (key) {
      const keyed = shown.map((s) => [key(s), s]);
      shown = keyed.sort((a, b) => a[0] - b[0] || 0).map((pair) => pair[1]);
    }
    page = 0;
    const set = Object.values(fields).filter((f) => f.value).map((f) => [f.name, f.value]);
    if (set.length || location.hash.includes("=")) {
      history.replaceState(null, "", "#" + (set.length ? new URLSearchParams(set) : "solutions"));
    }
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    document.getElementById("count").textContent = `${shown.length} of ${data.solutions.length} solutions`;
    document.getElementById("where").textContent = `page ${page + 1} of ${pages}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page >= pages - 1;
    list.classList.toggle("by-advantage", fields.colour.value === "advantage");
    list.replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
  }

  function card(solution) {
    const [uid, prompt, gold] = data.problems[solution.problem];
    const box = element("article", "solution");
    const facts = element("div", "facts");
    facts.append(element("span", `outcome ${solution.outcome}`, solution.outcome));
    facts.append(element("span", "", `answer ${solution.answer ?? "none"} (gold ${gold})`));
    if (solution.advantage !== undefined) facts.append(element("span", "", `outcome advantage ${signed(solution.advantage)}`));
    for (const [name, value] of solution.rewards ?? []) {
      facts.append(element("span", "", `${name} ${value === null ? "skipped" : signed(value)}`));
    }
    if (solution.stop === "length") facts.append(element("span", "", "truncated"));
    if (solution.kept === false) facts.append(element("span", "muted", "not trained on"));
    if (data.runs.length > 1) facts.append(element("span", "muted", data.runs[solution.run]));
    if (solution.round !== undefined) facts.append(element("span", "muted", `round ${solution.round}`));
    facts.append(element("span", "muted", `sample ${solution.sample}`));
    const link = element("button", "link", uid);
    link.title = "show the solutions of this problem";
    link.addEventListener("click", () => { fields.problem.value = uid; apply(); });
    facts.append(link);
    if (solution.note) facts.append(element("span", "note", `judge: ${solution.note}`));
    const text = element("div", "text");
    const most = Math.max(1e-9, ...labelled(solution).map((t) => Math.abs(t[2] ?? 0)));
    for (const thought of solution.thoughts ?? []) text.append(span(solution, thought, most));
    box.append(facts, element("div", "prompt", prompt), text);
    return box;
  }

  function span(solution, thought, most) {
    const [label, , advantage, steps] = thought;
    if (!label) return element("span", "", steps.join(""));
    const node = element("span", `thought ${label}`);
    const joined = steps.join("");
    const body = joined.trimEnd();
    node.append(element("span", `chip ${label}`, LABELS[label]), body);
    node.tabIndex = 0;
    node.style.setProperty("--tone", (advantage ?? 0) < 0 ? "var(--incorrect)" : "var(--unmatched)");
    node.style.setProperty("--depth", `${Math.round(55 * Math.abs(advantage ?? 0) / most)}%`);
    node.addEventListener("mouseenter", (event) => tip(event, solution, thought, node));
    node.addEventListener("focus", (event) => tip(event, solution, thought, node));
    node.addEventListener("mouseleave", hideTip);
    node.addEventListener("blur", hideTip);
    const both = document.createDocumentFragment();
    both.append(node, joined.slice(body.length));
    return both;
  }

  function tip(event, solution, thought, at) {
    const [label, reward, advantage, steps] = thought;
    const box = document.getElementById("tip");
    const number = labelled(solution).indexOf(thought) + 1;
    const facts = element("dl");
    const add = (name, value) => facts.append(element("dt", "", name), element("dd", "", value));
    add("thought", `${number} of ${labelled(solution).length}, ${steps.length} step${steps.length > 1 ? "s" : ""}`);
    if (reward !== null) add("process reward", signed(reward));
    if (advantage !== null) add("advantage", signed(advantage));
    add("judge", solution.note || "no note");
    box.replaceChildren(element("span", `chip ${label}`, LABELS[label]), facts);
    box.hidden = false;
    const place = at.getClientRects()[0] ?? at.getBoundingClientRect();
    const left = event.clientX ?? place.left;
    box.style.left = `${Math.max(8, Math.min(left, innerWidth - box.offsetWidth - 24)) + scrollX}px`;
    const below = (event.clientY ?? place.bottom) + 18;
    const fits = below + box.offsetHeight < innerHeight;
    box.style.top = `${(fits ? below : below - box.offsetHeight - 36) + scrollY}px`;
  }

  function hideTip() { document.getElementById("tip").hidden = true; }

  function readAddress() {
    if (!location.hash.includes("=")) return;
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const [name, field] of Object.entries(fields)) field.value = wanted.get(name) ?? "";
  }

  fillFilters();
  readAddress();
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  document.getElementById("previous").addEventListener("click", () => { page -= 1; draw(); });
  document.getElementById("next").addEventListener("click", () => { page += 1; draw(); });
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) { readAddress(); apply(); } });
  const filtered = location.hash.includes("=");
  apply();
  if (filtered) document.getElementById("solutions").scrollIntoView();
})();
