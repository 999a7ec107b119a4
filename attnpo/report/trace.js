"use strict";
// The page's data: `index`, what the lists need, and `blobs`, a compressed trace a response, which is unpacked when it is
// looked at. What responses hold goes into the page as text nodes alone, never as markup.
const index = JSON.parse(document.getElementById("index").textContent);
const blobs = JSON.parse(document.getElementById("blobs").textContent);
const compared = index.runs.length > 1;
const byStep = index.responses.every((response) => response.step !== null);
const state = {
  filters: new Set(), longest: false, query: "", found: null, problem: null, panes: [null, null],
  heads: new Set(index.heads.keys()), token: null,
};

function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") element.style.cssText = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const short = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const steps_of = (trace) => trace.texts.length;
const weights_of = (trace) => trace.tokens ?? trace.texts.map((text) => text.length);

// Unpacking.

const unpacked = new Map();
function unpack(number) {
  if (!unpacked.has(number)) unpacked.set(number, inflate(blobs[number]));
  return unpacked.get(number);
}
async function inflate(blob) {
  const packed = Uint8Array.from(atob(blob), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const trace = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  trace.attention = bytes.subarray(4 + length);
  return trace;
}

// What the heads that are on say of a response: step scores, their baseline, and the factors on the advantage.

function scored(number, trace) {
  if (!trace.scores || !state.heads.size) return null;
  const response = index.responses[number], c = index.credit;
  const p = response.p;
  const uniform = trace.answerTokens / trace.totalTokens;
  // Where no response is right the baseline is 0; the colours then show that of p = 1.
  const base = (p || 1) ** c.baseline_exponent * uniform, depth = p ** c.attenuation_exponent;
  const heads = [...state.heads];
  const steps = trace.texts.map((_, k) => {
    if (trace.scores[heads[0]][k] === null) return null;
    const score = heads.reduce((sum, head) => sum + trace.scores[head][k], 0) / heads.length;
    const ratio = score / base, rescaled = response.correct && steps_of(trace) >= c.min_steps;
    const positive = rescaled ? (ratio < 1 ? 1 - (1 - c.floor) * depth * (1 - ratio) : 1) : null;
    const negative = rescaled ? (ratio > 1 ? 0 : 1) : null;
    return { score, ratio, positive, negative };
  });
  return { base, p, steps };
}
function level(ratio) {  // -4 to 4: thirds of a doubling, from .4 of the baseline to 2.5 times it
  return Math.max(-4, Math.min(4, Math.round(3 * Math.log2(Math.max(ratio, 1e-6)))));
}
function looks(trace, token) {  // the attention of an answer token to each step, the mean over the heads that are on
  const K = steps_of(trace), R = trace.words.length, heads = [...state.heads];
  return trace.texts.map((_, k) => heads.reduce((sum, head) =>
    sum + trace.attention[(head * R + token) * K + k], 0) / Math.max(1, heads.length) / 255 * trace.most);
}

// The list of problems.

const FILTERS = {
  correct: (response) => response.correct,
  wrong: (response) => !response.correct,
  truncated: (response) => response.truncated,
  "no </think>": (response) => !response.thinkEnd,
};
function passes(number) {
  const response = index.responses[number];
  const wanted = [...state.filters];
  return (!wanted.length || wanted.some((name) => FILTERS[name](response))) &&
    (state.found === null || state.found.has(number));
}
const members = index.problems.map(() => []);
index.responses.forEach((response, number) => members[response.problem].push(number));
const longestOf = (problem) => Math.max(...members[problem].filter(passes).map((n) => index.responses[n].tokens[0]));

function listed() {
  const problems = [...index.problems.keys()].filter((problem) => members[problem].some(passes));
  if (state.longest) problems.sort((a, b) => longestOf(b) - longestOf(a));
  return problems;
}
function drawFilters() {
  const count = (test) => index.responses.filter(test).length;
  const button = (name, pressed, number, change) => el("button", {
    type: "button", "aria-pressed": String(pressed), onclick: () => { change(); drawFilters(); drawList(); },
  }, name, number === null ? null : el("span", { class: "number" }, ` ${number}`));
  const focused = [...byId("filters").children].indexOf(document.activeElement);
  byId("filters").replaceChildren(
    ...Object.entries(FILTERS).map(([name, test]) => button(name, state.filters.has(name), count(test), () => {
      if (!state.filters.delete(name)) state.filters.add(name);
    })),
    button("longest first", state.longest, null, () => { state.longest = !state.longest; }),
  );
  if (focused >= 0) byId("filters").children[focused].focus();
}
function drawList() {
  const problems = listed(), most = Math.max(...index.problems.flatMap((p) => p.of.map((of) => (of ? of.tokens : 0))));
  const matching = index.responses.filter((_, number) => passes(number)).length;
  byId("count").textContent = `${plural(problems.length, "problem")}, ${plural(matching, "response")}`;
  byId("problems").replaceChildren(...problems.map((number) => {
    const problem = index.problems[number];
    const runs = index.runs.map((run, r) => problem.of[r] && el("span", { class: "of" },
      compared ? el("span", { class: "run" }, run.label) : null,
      el("span", { class: "right", title: "share of right responses" }, `✓ ${percent(problem.of[r].accuracy)}`),
      el("span", { class: "length" }, `${Math.round(problem.of[r].tokens)} tokens`),
      el("span", { class: "bar", "aria-hidden": "true" },
        el("span", { class: `fill run${r % 2}`, style: `width:${100 * problem.of[r].tokens / most}%` }))));
    const what = `${byStep ? `${problem.task}: ` : ""}${problem.text ?? problem.id}`;
    return el("li", {}, el("button", {
      type: "button", class: "problem", "data-problem": number, "aria-current": String(number === state.problem),
      onclick: () => select(number),
    }, el("span", { class: "what" }, what), runs));
  }));
  if (!problems.includes(state.problem) && problems.length) select(problems[0]);
}
byId("problems").addEventListener("keydown", (event) => {
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  const buttons = [...byId("problems").querySelectorAll("button")];
  const next = buttons[buttons.indexOf(document.activeElement) + move];
  if (next) { next.focus(); select(Number(next.dataset.problem)); }
});
byId("search").addEventListener("input", async () => {
  const query = state.query = byId("search").value.trim().toLowerCase();
  if (!query) { state.found = null; drawList(); return; }
  byId("count").textContent = "searching …";
  const found = new Set();
  for (const number of index.responses.keys()) {
    const problem = index.problems[index.responses[number].problem];
    const trace = await unpack(number);
    if (state.query !== query) return;  // another search has begun
    trace.lower ??= [problem.id, problem.text ?? "", trace.texts.join(""), trace.answer].join("\n").toLowerCase();
    if (trace.lower.includes(query)) found.add(number);
  }
  state.found = found;
  drawList();
});

// A problem and one or two of its responses.

function select(problem) {
  state.problem = problem;
  for (const button of byId("problems").querySelectorAll("button"))
    button.setAttribute("aria-current", String(Number(button.dataset.problem) === problem));
  const of = (run) => {
    const numbers = members[problem].filter((number) => index.responses[number].run === run);
    return numbers.find(passes) ?? numbers[0] ?? null;
  };
  const runs = [...index.runs.keys()].filter((run) => of(run) !== null);
  const kept = state.panes.map((pane) => pane && index.responses[pane.number].run);
  const first = runs.includes(kept[0]) ? kept[0] : runs[0];
  let second = runs.includes(kept[1]) ? kept[1] : runs.find((run) => run !== first);
  if (state.single) second = undefined;
  state.panes = [{ number: of(first) }, second === undefined || second === first ? null : { number: of(second) }];
  draw();
}
let drawing = 0;
async function draw() {
  const turn = ++drawing;
  const panes = state.panes.filter((pane) => pane !== null);
  await Promise.all(panes.map(async (pane) => { pane.trace = await unpack(pane.number); }));
  if (turn !== drawing) return;
  state.token = null;
  const problem = index.problems[state.problem];
  const rows = panes.length === 2 ? aligned(panes[0].trace, panes[1].trace) : null;
  byId("main").replaceChildren(
    ...(byStep ? index.runs.map((_, run) => training(run)) : []),
    el("section", { class: "question" },
      el("h2", {}, problem.id, " ", el("small", {}, problem.task)),
      problem.text === null ? el("p", { class: "quiet" }, "What was asked is not known; name its file with --data.")
        : el("p", { class: "asked" }, problem.text),
      problem.gold ? el("p", {}, "Right answer: ", el("b", {}, problem.gold)) : null),
    controls(),
    el("div", { class: "panes", "data-panes": panes.length }, panes.map((pane, side) => header(pane, side))),
    ...(rows ? [difference(rows, panes)] : []),
    el("div", { class: "steps", "data-panes": panes.length, "aria-label": "Steps", role: "group" }, stepRows(panes, rows)),
    el("div", { class: "panes", "data-panes": panes.length }, panes.map((pane, side) => answer(pane, side))),
    el("p", { id: "looked", role: "status" }));
  paint();
  if (location.protocol !== "about:") history.replaceState(null, "", `#${panes.map((pane) => pane.number).join(",")}`);
}

// A training: a column a step, as high as its rollouts are long.

function training(run) {
  const steps = new Map();
  for (const response of index.responses.filter((one) => one.run === run))
    steps.set(response.step, [...(steps.get(response.step) ?? []), response]);
  const mean = (responses, value) => responses.reduce((sum, response) => sum + value(response), 0) / responses.length;
  const length = (responses) => mean(responses, (response) => response.tokens[0]);
  const most = Math.max(...[...steps.values()].map(length));
  const now = index.problems[state.problem].task;
  const columns = [...steps].sort(([a], [b]) => a - b).map(([step, responses]) => {
    const parts = Object.keys(SHARES).map((name) => [name, mean(responses, (one) => one.tokens[0] * one.shares[name])]);
    const said = parts.filter(([name, tokens]) => tokens >= 0.5 && name !== "tag")
      .map(([name, tokens]) => `${SHARES[name]} ${Math.round(tokens)}`).join(", ");
    return el("button", {
      type: "button", "aria-label": `step ${step}: ${Math.round(length(responses))} tokens (${said})`,
      title: `step ${step}: ${said}`, "aria-current": String(now === `step ${step}`),
      onclick: () => select(responses[0].problem),
    }, el("span", { class: "column", style: `height:${100 * length(responses) / most}%` },
      parts.filter(([, tokens]) => tokens > 0).reverse().map(([name, tokens]) =>
        el("span", { class: name, style: `flex-grow:${tokens}` }))));
  });
  const first = Math.min(...steps.keys()), last = Math.max(...steps.keys());
  return el("section", { class: "training", "aria-label": "Training" },
    el("h2", {}, index.runs[run].label, el("small", {}, ` tokens of a rollout by training step, at most ${Math.round(most)}`)),
    el("div", { class: "columns", role: "group", "aria-label": "Training steps" }, columns),
    el("p", { class: "ends" }, el("span", {}, `step ${first}`),
      el("span", {}, ["essential", "redundant", "unlabelled", "answer"]
        .filter((name) => index.responses.some((one) => one.shares[name] > 0)).map((name) => el("span", { class: "key" },
          el("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${SHARES[name]} `))),
      el("span", {}, `step ${last}`)));
}

function controls() {
  if (!index.heads.length) return el("p", { class: "quiet" }, "Without scores: name a model and heads.json to see them.");
  const marks = ["≤ 0.4", "0.5", "0.63", "0.8", "1", "1.25", "1.6", "2", "≥ 2.5"];
  return el("section", { class: "controls" },
    el("fieldset", {}, el("legend", {}, "Heads"), index.heads.map(([layer, head, sra], place) => el("label", {},
      el("input", {
        type: "checkbox", checked: state.heads.has(place), "data-head": place,
        onchange: (event) => {
          if (event.target.checked) state.heads.add(place); else state.heads.delete(place);
          paint();
        },
      }), ` layer ${layer}, head ${head} `, el("span", { class: "number" }, `SRA ${sra.toFixed(3).replace(/^0/, "")}`)))),
    el("div", { class: "legend" },
      el("span", {}, "Step score S over the baseline score S₀"),
      el("span", { class: "scale" }, marks.map((mark, place) => el("span", { class: `l${place - 4}` }, mark))),
      el("span", { class: "ends" }, el("span", {}, "little looked at"), el("span", {}, "much looked at"))));
}

function header(pane, side) {
  const response = index.responses[pane.number], trace = pane.trace;
  const there = [...index.runs.keys()].filter((run) => members[state.problem].some((n) => index.responses[n].run === run));
  const numbers = members[state.problem].filter((number) => index.responses[number].run === response.run);
  const change = (number) => { state.panes[side] = number === null ? null : { number }; draw(); };
  const of = (run) => members[state.problem].find((number) => index.responses[number].run === run);
  const verdict = response.correct ? "✓ correct" : response.truncated ? "✗ cut off" : "✗ wrong";
  const more = [!response.thinkEnd && "no </think>", !response.correct && response.reason].filter(Boolean).join(", ");
  const name = side ? "right" : "left";
  const choices = el("select", {
    "aria-label": `Run on the ${name}`,
    onchange: (event) => {
      state.single = event.target.value === "";
      change(event.target.value === "" ? null : of(Number(event.target.value)));
    },
  }, there.map((run) => el("option", { value: run, selected: run === response.run }, index.runs[run].label)),
  side ? el("option", { value: "" }, "none") : null);
  const beside = !side && state.panes[1] === null && (compared || numbers.length > 1) ? el("button", {
    type: "button", onclick: () => {
      state.single = false;
      const other = there.find((run) => run !== response.run);
      state.panes[1] = { number: other === undefined ? numbers.find((n) => n !== pane.number) : of(other) };
      draw();
    },
  }, "Compare") : null;
  return el("section", { class: "pane", "aria-label": `Response on the ${name}` },
    el("div", { class: "pick" }, compared || side ? choices : el("b", {}, index.runs[response.run].label),
      el("span", { class: "responses", role: "group", "aria-label": "Responses" }, numbers.map((number) => el("button", {
        type: "button", "aria-pressed": String(number === pane.number), onclick: () => change(number),
      }, `${index.responses[number].correct ? "✓" : "✗"} ${index.responses[number].tokens[0]}`))), beside),
    el("p", { class: "verdict" }, el("b", { class: response.correct ? "good" : "bad" }, verdict), more ? ` (${more})` : "",
      ` · ${plural(response.tokens[0], "token")}, ${response.tokens[1]} of thinking · ${plural(steps_of(trace), "step")}`,
      el("span", { class: "base" })),
    shares(response), map(pane, side));
}
const SHARES = {
  essential: "essential", redundant: "redundant", unlabelled: "thinking without a label", answer: "answer", tag: "tag",
};
function shares(response) {
  const parts = Object.entries(SHARES).filter(([name]) => response.shares[name] > (name === "tag" ? 1 : 0));
  const [, first] = response.first;
  return el("div", { class: "shares" },
    el("div", { class: "bar", "aria-hidden": "true" },
      parts.map(([name]) => el("span", { class: name, style: `flex-grow:${response.shares[name]}` }))),
    el("p", {}, parts.map(([name, title]) => el("span", { class: "key" },
      el("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${title} ${percent(response.shares[name])}`)),
    response.first[0] === null ? null : el("span", { class: "key" }, "▼ right answer found in step ",
      String(response.first[0] + 1), first === null ? "" : `, after ${plural(first, "token")}`)));
}
function map(pane, side) {
  const trace = pane.trace, weights = weights_of(trace), response = index.responses[pane.number];
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  const before = weights.slice(0, (response.first[0] ?? -1) + 1).reduce((sum, weight) => sum + weight, 0);
  const part = response.tokens[1] ? response.tokens[1] / response.tokens[0] : 0;
  return el("div", { class: "map", "aria-hidden": "true", title: "The steps, as wide as they are long, then the answer" },
    el("div", { class: "mapped" }, weights.map((weight, k) => el("span", {
      style: `flex-grow:${weight}`, "data-step": k, title: `step ${k + 1}`,
      onclick: () => focusStep(side, k),
    }, el("i"))), el("span", { class: "rest", style: `flex-grow:${part ? whole * (1 - part) / part : 1}` })),
    response.first[0] === null ? null : el("span", { class: "mark", style: `left:${100 * part * before / (whole || 1)}%` }, "▼"));
}

// The steps.

function stepRows(panes, rows) {
  const pairs = rows ?? panes[0].trace.texts.map((_, k) => ({ how: "", at: [k] }));
  if (!pairs.length) return [el("p", { class: "quiet" }, "No thinking, so no steps.")];
  const first = panes.map(() => true);
  return pairs.map(({ how, at }) => el("div", { class: "row" }, panes.map((pane, side) => {
    const k = at[side];
    if (k === null || k === undefined)
      return el("div", { class: "blank" }, side ? "no longer written" : "not written");
    const tabindex = first[side] ? "0" : "-1";
    first[side] = false;
    return step(pane, side, k, how, tabindex);
  })));
}
function step(pane, side, k, how, tabindex) {
  const trace = pane.trace, text = trace.texts[k].replace(/\s+$/, ""), trigger = trace.triggers[k];
  const opened = trigger !== null && text.startsWith(trigger);
  const label = trace.labels[k], essential = trace.essential[k];
  const word = essential === null ? null : `${essential ? "●" : "○"} ${essential ? "essential" : "redundant"}`;
  const marked = { gone: "− ", new: "+ ", reworded: "~ " }[how] ?? "";
  const found = index.responses[pane.number].first[0] === k;
  return el("article", {
    class: `step ${how}`, tabindex, "data-side": side, "data-step": k,
    "aria-label": `Step ${k + 1}${how ? `, ${how}` : ""}`,
  }, el("span", { class: "at" }, `${marked}${k + 1}`),
    el("p", { class: "text" }, opened ? el("b", {}, trigger) : "", opened ? text.slice(trigger.length) : text),
    el("p", { class: "facts" },
      found ? el("span", { class: "found" }, "▼ right answer found") : null,
      word ? el("span", {}, word, label && label !== "essential" && label !== "redundant" ? `: ${label}` : "") : null,
      el("span", {}, index.kinds[trace.kinds[k]], trigger === null ? " (start)" : ""),
      el("span", {}, trace.tokens ? plural(trace.tokens[k], "token") : plural(trace.texts[k].length, "character")),
      el("span", { class: "score" }), el("span", { class: "gammas" }), el("span", { class: "seen" })),
    el("span", { class: "look", "aria-hidden": "true" }));
}
function focusStep(side, k) {
  const found = byId("main").querySelector(`article[data-side="${side}"][data-step="${k}"]`);
  if (found) { found.focus(); found.scrollIntoView({ block: "center" }); }
}
byId("main").addEventListener("focusin", (event) => {
  const article = event.target.closest?.("article.step");
  if (!article) return;
  for (const other of byId("main").querySelectorAll(`article[data-side="${article.dataset.side}"][tabindex="0"]`))
    other.tabIndex = -1;
  article.tabIndex = 0;
});
byId("main").addEventListener("keydown", (event) => {
  const article = event.target.closest?.("article.step"), move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!article || !move) return;
  event.preventDefault();
  focusStep(article.dataset.side, Number(article.dataset.step) + move);
});

// The answer, token by token.

function answer(pane, side) {
  const trace = pane.trace;
  const name = el("h3", {}, "Answer");
  if (!trace.words)
    return el("section", { class: "answer" }, name, trace.answer.trim() ? el("p", { class: "text" }, trace.answer.trim())
      : el("p", { class: "quiet" }, "There is none."));
  const all = trace.words.length === trace.answerTokens;
  const text = el("p", {
    class: "text tokens", role: "group", "aria-label": "Tokens of the answer",
    onmouseleave: () => { if (!text.contains(document.activeElement)) point(null); },
    onkeydown: (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key], tokens = [...text.querySelectorAll(".token")];
      const now = tokens.indexOf(document.activeElement);
      if (now < 0) return;
      if (move) { event.preventDefault(); tokens[now + move]?.focus(); }
      if (event.key === "Enter") {
        const seen = looks(trace, now);
        focusStep(side, seen.indexOf(Math.max(...seen)));
      }
    },
  }, trace.before.trimStart(), trace.words.map((word, token) => el("span", {
    class: "token", tabindex: token ? "-1" : "0", role: "button", "aria-label": `token ${JSON.stringify(word)}`,
    onmouseenter: () => point({ side, token }), onfocus: (event) => {
      for (const other of text.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
      event.target.tabIndex = 0;
      point({ side, token });
    },
  }, word.replaceAll("\n", "⏎\n"))));
  return el("section", { class: "answer" }, name, text, el("p", { class: "quiet" },
    `Point at a token to see which steps the heads look at from it${all ? "" : `; kept of the last ${trace.words.length} of ${trace.answerTokens}`}.`));
}
function point(token) {
  state.token = token;
  paintLooks();
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.token) {
    if (document.activeElement.classList.contains("token")) document.activeElement.blur();
    point(null);
  }
  if (event.key === "/" && !["INPUT", "SELECT"].includes(event.target.tagName)) { event.preventDefault(); byId("search").focus(); }
});

// Colours, numbers and looks on what is drawn, after the heads or the token have changed.

function paint() {
  state.panes.filter((pane) => pane !== null).forEach((pane, side) => {
    const now = scored(pane.number, pane.trace);
    const header = byId("main").querySelectorAll(".pane")[side];
    const segments = header.querySelectorAll(".mapped [data-step]");
    if (now) header.querySelector(".base").textContent =
      ` · p = ${short(now.p)}, S₀ ${now.base.toPrecision(2)}${now.p ? "" : " (of p = 1)"}`;
    for (const article of byId("main").querySelectorAll(`article[data-side="${side}"]`)) {
      const k = Number(article.dataset.step), of = now?.steps[k];
      const colour = of ? `l${level(of.ratio)}` : "none";
      article.dataset.level = colour;
      segments[k].dataset.level = colour;
      article.querySelector(".score").textContent = of ? `S ${of.score.toPrecision(2)} = ${short(of.ratio)} S₀` : "";
      article.querySelector(".gammas").textContent =
        of && of.positive !== null ? `γ PA ${short(of.positive)}, NA ${of.negative}` : "";
    }
  });
  paintLooks();
}
function paintLooks() {
  for (const bar of byId("main").querySelectorAll(".look")) bar.style.width = "0";
  for (const seen of byId("main").querySelectorAll(".seen")) seen.textContent = "";
  for (const bar of byId("main").querySelectorAll(".mapped i")) bar.style.height = "0";
  for (const token of byId("main").querySelectorAll(".token.on")) token.classList.remove("on");
  const looked = byId("looked");
  if (!looked) return;
  looked.textContent = "";
  if (!state.token || !state.heads.size) return;
  const { side, token } = state.token, pane = state.panes.filter((one) => one !== null)[side], trace = pane.trace;
  const seen = looks(trace, token), most = Math.max(...seen, 1e-9);
  byId("main").querySelectorAll("section.answer")[side].querySelectorAll(".token")[token].classList.add("on");
  const segments = byId("main").querySelectorAll(".pane")[side].querySelectorAll(".mapped i");
  for (const article of byId("main").querySelectorAll(`article[data-side="${side}"]`)) {
    const k = Number(article.dataset.step);
    article.querySelector(".look").style.width = `${100 * seen[k] / most}%`;
    article.querySelector(".seen").textContent = seen[k] >= 0.005 ? `looked at: ${percent(seen[k])}` : "";
    segments[k].style.height = `${100 * seen[k] / most}%`;
  }
  const best = [...seen.keys()].sort((a, b) => seen[b] - seen[a]).slice(0, 3).filter((k) => seen[k] >= 0.005);
  const rest = 1 - seen.reduce((sum, share) => sum + share, 0);
  looked.textContent = `From ${JSON.stringify(trace.words[token])} the heads look at ` +
    `${best.map((k) => `step ${k + 1} (${percent(seen[k])})`).join(", ") || "no step"}; ` +
    `${percent(Math.max(0, rest))} goes to prompt, tag and answer.`;
}

// Two responses: which steps of the first the second no longer writes.

function words(text) { return text.trim().split(/\s+/).sort(); }
function alike(a, b) {  // Dice's coefficient of two sorted lists
  let i = 0, j = 0, both = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) { both += 1; i += 1; j += 1; } else if (a[i] < b[j]) i += 1; else j += 1;
  }
  return 2 * both / (a.length + b.length);
}
function aligned(left, right) {
  const a = left.texts.map(words), b = right.texts.map(words), n = a.length, m = b.length;
  const names = [a, b].map((lists) => lists.map((list) => list.join(" ")));
  const close = n * m <= 90000;  // above that, equal steps alone are found
  const value = (i, j) => {
    if (names[0][i] === names[1][j]) return 1;
    const share = close ? alike(a[i], b[j]) : 0;
    return share >= 0.6 ? share / 2 : 0;
  };
  const best = Array.from({ length: n + 1 }, () => new Float32Array(m + 1));
  for (let i = n - 1; i >= 0; i -= 1)
    for (let j = m - 1; j >= 0; j -= 1) {
      const pair = value(i, j);
      best[i][j] = Math.max(best[i + 1][j], best[i][j + 1], pair ? pair + best[i + 1][j + 1] : 0);
    }
  const rows = [];
  let i = 0, j = 0;
  while (i < n || j < m) {
    const pair = i < n && j < m ? value(i, j) : 0;
    if (pair && best[i][j] === Math.fround(pair + best[i + 1][j + 1])) {
      rows.push({ how: pair === 1 ? "same" : "reworded", at: [i, j] });
      i += 1; j += 1;
    } else if (i < n && (j === m || best[i + 1][j] >= best[i][j + 1])) { rows.push({ how: "gone", at: [i, null] }); i += 1; }
    else { rows.push({ how: "new", at: [null, j] }); j += 1; }
  }
  return rows;
}
function difference(rows, panes) {
  const count = (how) => rows.filter((row) => row.how === how).length;
  const gone = rows.filter((row) => row.how === "gone").map((row) => row.at[0]);
  const [left] = panes, redundant = gone.filter((k) => left.trace.essential[k] === false).length;
  const labelled = left.trace.essential.some((label) => label !== null);
  const tokens = gone.reduce((sum, k) => sum + weights_of(left.trace)[k], 0);
  return el("p", { class: "difference" }, `Of ${plural(left.trace.texts.length, "step")} on the left, `,
    el("b", {}, `${gone.length} ${gone.length === 1 ? "is" : "are"} no longer written`),
    `${labelled && gone.length ? ` (${redundant} redundant, ${gone.filter((k) => left.trace.essential[k]).length} essential)` : ""}` +
    ` on the right: ${plural(tokens, left.trace.tokens ? "token" : "character")}. ` +
    `${count("same")} stay, ${count("reworded")} are reworded, ${count("new")} are new.`);
}

// Begin with what the address names, else with the first problem.

const named = location.hash.slice(1).split(",").filter(Boolean).map(Number);
drawFilters();
if (named.length && named.every((number) => index.responses[number]) &&
    new Set(named.map((number) => index.responses[number].problem)).size === 1) {
  state.problem = index.responses[named[0]].problem;
  state.panes = [{ number: named[0] }, named.length > 1 ? { number: named[1] } : null];
  state.single = named.length === 1;
  draw();
}
drawList();
byId("problems").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "center" });
