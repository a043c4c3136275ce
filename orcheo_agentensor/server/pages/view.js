// The pages of `agentensor view`. Whatever comes from the store becomes a text node, never markup.
"use strict";

const API = "/agentensor/v1";
const PAGE = 50;
const EVERY_MS = 2000;
const main = document.getElementById("main");
const live = document.getElementById("live");
let timer = null;
let drawn = 0;

// The key comes in the address, which the browser sends nowhere, and stays with this tab.
const given = new URLSearchParams(location.hash.slice(1));
if (given.has("key")) {
  sessionStorage.setItem("key", given.get("key"));
  history.replaceState(null, "", location.pathname + "#" + (given.get("to") || "/"));
}

async function ask(path, query) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    for (const one of [value].flat()) {
      if (one !== "" && one !== null && one !== undefined) parts.append(name, one);
    }
  }
  const text = parts.toString();
  const answer = await fetch(API + path + (text ? "?" + text : ""), {
    headers: { "x-agentensor-key": sessionStorage.getItem("key") || "" },
  });
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Error(told && told.error ? told.error.message : `${answer.status} ${answer.statusText}`);
  }
  return answer;
}

const get = async (path, query) => (await ask(path, query)).json();
const at = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  return fill(made, attributes, children);
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(made, attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const link = (href, text) => el("a", { href }, text);
const number = (value, digits = 3) => (value === null || value === undefined ? "-" : Number(value).toFixed(digits));
const percent = (value) => (value === null || value === undefined ? "-" : (100 * value).toFixed(1) + " %");
const ms = (value) => (value === null || value === undefined ? "-" : Number(value).toFixed(value < 10 ? 1 : 0) + " ms");
const when = (text) => (text ? text.slice(0, 19).replace("T", " ") : "-");
const chance = (value) => (value < 0.0001 ? "<0.0001" : number(value, 4));
const money = (value) => (value === null || value === undefined ? "price unknown" : "$" + value.toFixed(4));
const interval = (ends) => (ends ? `[${number(ends[0])}, ${number(ends[1])}]` : "-");
// What steers a reader (bidirectional overrides, characters of no width) is shown as a mark.
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const clean = (text) => String(text).replace(STEERING, "\ufffd");

function text(value, most) {
  if (value === null || value === undefined) return "";
  const whole = clean(typeof value === "string" ? value : JSON.stringify(value, null, most ? 0 : 1));
  return most && whole.length > most ? whole.slice(0, most) + "…" : whole;
}

function table(caption, heads, rows) {
  const cell = (tag, content, n, scope) =>
    el(tag, { class: heads[n].startsWith(">") ? "n" : heads[n].startsWith("~") ? "text" : null, scope }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, n) => cell("th", head.replace(/^[>~]/, ""), n, "col")))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((one, n) => cell("td", one, n)))))));
}

function bar(label, mean, ends) {
  if (mean === null || mean === undefined) return "-";
  const at = (value) => 100 * Math.min(1, Math.max(0, value));
  const told = `${label}: ${number(mean)}` + (ends ? `, 95 % interval ${interval(ends)}` : "");
  return svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": told },
    svg("rect", { class: "back", width: 100, height: 10 }),
    svg("rect", { class: "fill", width: at(mean), height: 10 }),
    ends && svg("rect", { class: "range", x: at(ends[0]), y: 4, width: Math.max(.7, at(ends[1]) - at(ends[0])), height: 2 }));
}

const words = (pieces) => el("pre", {}, pieces.map(([kind, piece]) =>
  kind === "added" ? el("ins", {}, clean(piece)) : kind === "removed" ? el("del", {}, clean(piece)) : clean(piece)));

const pair = (name, value) => (value === "" || value === null || value === undefined ? [] : [el("dt", {}, name), el("dd", {}, value)]);
const block = (name, value) => (value === null || value === undefined ? [] : pair(name, el("pre", {}, text(value))));

function choice(name, label, options, chosen) {
  return el("label", {}, label, el("select", { name }, options.map(([value, shown]) =>
    el("option", { value, selected: value === (chosen || "") }, shown))));
}

const entry = (name, label, value, hint) =>
  el("label", {}, label, el("input", { name, value: value || "", placeholder: hint, autocomplete: "off" }));

function form(route, ...fields) {
  return el("form", {
    submit: (event) => {
      event.preventDefault();
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(event.target)) if (value) query.append(name, value);
      location.hash = route + (query.toString() ? "?" + query : "");
    },
  }, fields, el("button", {}, "Show"));
}

// -- Runs ----------------------------------------------------------------------------------------

async function showRuns(_parts, query) {
  const found = await get("/runs", { limit: PAGE, cursor: query.get("cursor"), workflow_id: query.get("workflow_id"), mode: query.get("mode"), status: query.get("status") });
  const modes = [["", "all"], ["evaluate", "evaluations"], ["train", "trainings"], ["run", "single executions"]];
  const states = [["", "all"], ...["running", "finished", "failed", "interrupted", "paused"].map((name) => [name, name])];
  const rows = found.items.map((run) => [
    link("#" + at("runs", run.run_id), clean(run.run_id)), run.mode, clean(run.workflow_id), run.status,
    number(((run.result || {}).summary || {}).objective), ((run.result || {}).decision || {}).status || "", el("span", { class: "when" }, when(run.started_at))]);
  return {
    title: "Runs",
    body: [el("h1", {}, "Runs"),
      form("#/", entry("workflow_id", "workflow", query.get("workflow_id")), choice("mode", "kind", modes, query.get("mode")), choice("status", "status", states, query.get("status"))),
      rows.length ? table("Newest first", ["run", "kind", "workflow", "status", ">objective", "decision", "started (UTC)"], rows) : el("p", {}, "No run is like that."),
      pages("#/", query, found.next_cursor)],
    again: found.items.some((run) => run.status === "running"),
  };
}

function pages(route, query, cursor) {
  if (!cursor && !query.get("cursor")) return null;
  const to = (value) => { const next = new URLSearchParams(query); next.delete("cursor"); if (value) next.set("cursor", value); return route + (next.toString() ? "?" + next : ""); };
  return el("p", { class: "pages" }, query.get("cursor") && [link(to(null), "First page"), " "], cursor && link(to(cursor), "Next page"));
}

// -- A run ---------------------------------------------------------------------------------------

const SHOW = [["", "all cases"], ["failed", "not passed"], ["errors", "broken"], ["worst", "the worst first"], ["passed", "passed"]];
const FILTERS = { failed: { passed: false }, errors: { failed: true }, worst: { order: "worst" }, passed: { passed: true } };

async function showRun([run_id], query) {
  const where = (query.get("where") || "").split(",").map((one) => one.trim()).filter(Boolean);
  const filters = { ...FILTERS[query.get("show")], where, phase: query.get("phase"), split: query.get("split") };
  const [run, cases, manifest] = await Promise.all([
    get(at("runs", run_id)),
    get(at("runs", run_id, "cases"), { limit: PAGE, cursor: query.get("cursor"), ...filters }),
    get(at("runs", run_id, "manifest")).catch(() => null),
  ]);
  const result = run.result || {}, summary = result.summary;
  const route = "#" + at("runs", run_id), working = run.status === "running";
  const of = manifest && run.mode === "evaluate" && manifest.dataset ? ` of ${manifest.dataset.cases * (manifest.job && manifest.job.replicates || 1)}` : "";
  const rows = cases.items.map((one) => [
    link(route + at("cases", one.case_id), clean(one.case_id)),
    el("span", { class: one.passed ? "good" : "bad" }, one.passed ? "passed" : one.failure ? "failed" : "not passed"),
    one.scores.map((s) => `${s.name} ${s.failure ? "failed" : s.label && s.score === null ? clean(s.label) : number(s.score)}`).join(", "),
    text(one.inputs, 160), one.failure ? text(one.failure.reason, 160) : text(one.output, 160),
    one.scores.map((s) => text((s.failure || {}).reason || s.reason, 120)).filter(Boolean).join("; "), ms(one.latency_ms)]);
  return {
    title: run_id,
    body: [
      el("p", { class: "soft" }, run.mode === "train" ? "Training" : run.mode === "evaluate" ? "Evaluation" : "Execution", " of ", el("b", {}, clean(run.workflow_id)), `, ${when(run.started_at)} UTC`),
      el("h1", {}, clean(run_id)),
      el("p", {}, `Status: ${run.status}`, run.error ? el("span", { class: "bad" }, `: ${clean(run.error)}`) : null, `. ${run.usage.rollouts}${of} rollouts, ${run.usage.calls} model calls, ${run.usage.tokens === null ? "tokens unknown" : run.usage.tokens + " tokens"}, ${money(run.usage.cost)}.`),
      el("p", {},
        run.mode === "train" && [link(route + "/lineage", "Lineage of the candidates"), " · "],
        summary && [["html", "md", "json"].map((kind) => [el("button", { type: "button", click: () => download(run_id, kind) }, `Report .${kind}`), " "])],
        link(`#/compare?a=${encodeURIComponent(run_id)}`, "Compare")),
      summary && scores(summary),
      result.decision && [el("h2", {}, `Decision: ${result.decision.status}`), el("ul", {}, result.decision.reasons.map((reason) => el("li", {}, clean(reason))))],
      el("h2", {}, "Cases"),
      form(route, choice("show", "show", SHOW, query.get("show")), entry("where", "where (comma between)", query.get("where"), "tone<0.5"),
        run.mode === "train" && choice("phase", "phase", ["", "train", "validation", "holdout"].map((name) => [name, name || "all"]), query.get("phase")),
        entry("split", "split", query.get("split"))),
      rows.length ? table(`${cases.total} executions`, ["case", "verdict", "scores", "~inputs", "~output", "~reasons", ">time"], rows) : el("p", {}, working ? "Nothing is finished yet." : "No case of this run is like that."),
      pages(route, query, cases.next_cursor),
      manifest && el("details", {}, el("summary", {}, "What the run was made of"), el("pre", {}, text(manifest))),
    ],
    again: working,
    told: working ? `at work: ${run.usage.rollouts}${of} rollouts` : "",
  };
}

function scores(summary) {
  const rows = Object.entries(summary.evaluators).map(([name, one]) => [
    clean(name), number(one.mean), interval(one.ci95), bar(name, one.mean, one.ci95), percent(one.pass_rate), one.n, one.failures]);
  const cards = [[number(summary.objective), "objective"], [percent(summary.coverage), "coverage"], [ms(summary.latency_ms.p50), "median time"], [ms(summary.latency_ms.p95), "95th percentile"]];
  return [el("ul", { class: "cards" }, cards.map(([value, name]) => el("li", {}, el("b", {}, value), name))),
    (summary.warnings || []).map((one) => el("p", { class: "bad" }, `Warning: ${clean(one)}`)),
    table("Evaluators", ["evaluator", ">mean", ">95 % interval", "0 to 1", ">passed", ">scored", ">failures"], rows)];
}

async function download(run_id, format) {
  try {
    const content = await (await ask(at("runs", run_id, "report"), { format })).blob();
    const url = URL.createObjectURL(content);
    el("a", { href: url, download: `${run_id}.${format}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  } catch (error) {
    live.textContent = clean(error.message);
  }
}

// -- A case --------------------------------------------------------------------------------------

async function showCase([run_id, case_id]) {
  const found = await get(at("runs", run_id, "cases", case_id));
  return {
    title: case_id,
    body: [el("p", {}, link("#" + at("runs", run_id), `Run ${clean(run_id)}`)), el("h1", {}, clean(case_id)), found.items.map(execution)],
  };
}

function execution(one) {
  const verdict = one.passed ? "passed" : one.failure ? "failed" : "not passed";
  return el("section", {},
    el("h2", {}, el("span", { class: one.passed ? "good" : "bad" }, verdict), ` in ${one.phase}, replicate ${one.replicate}, ${ms(one.latency_ms)}, prompts ${one.candidate_hash.slice(0, 8)}`),
    el("dl", {}, block("inputs", one.inputs), block("expected", one.expected_output), block("output", one.output),
      one.failure && pair("failure", el("span", { class: "bad" }, clean(`${one.failure.kind}: ${one.failure.reason}`))),
      one.scores.map((s) => pair(clean(s.name), clean(`${s.failure ? "failed" : s.score === null ? s.label || "-" : number(s.score)} ${(s.failure || {}).reason || s.reason || ""}`))),
      pair("trace", one.trace_id), Object.keys(one.metadata).length ? block("metadata", one.metadata) : []),
    el("h3", {}, "Path through the nodes"),
    one.taped ? null : el("p", { class: "soft" }, "What nodes took in and gave out was not recorded; evaluate with --tape."),
    el("ol", { class: "path" }, one.nodes.map((node) => el("li", {}, el("b", {}, clean(node.node)),
      node.path.length ? ` in ${clean(node.path.map((part) => part.split(":")[0]).join(" / "))}` : "",
      node.prompts.length ? `, reads ${clean(node.prompts.join(", "))}` : "",
      (node.inputs || node.output) && el("details", {}, el("summary", {}, "in and out"), el("dl", {}, block("in", node.inputs), block("out", node.output)))))),
    one.messages.length ? [el("h3", {}, "Messages"), el("dl", {}, one.messages.map((message) =>
      block(message.role, [message.content, ...message.tool_calls.map((call) => `calls ${call.name}(${text(call.args, 2000)})`)].filter(Boolean).join("\n"))))] : null,
    one.tool_calls.length ? [el("h3", {}, "Tool calls"), el("ol", {}, one.tool_calls.map((call) => el("li", {}, el("code", {}, clean(`${call.name}(${text(call.args, 2000)})`)))))] : null);
}

// -- A training ----------------------------------------------------------------------------------

async function showLineage([run_id]) {
  const [run, found] = await Promise.all([get(at("runs", run_id)), get(at("runs", run_id, "lineage"))]);
  const rows = found.candidates.map((one) => [String(one.number), one.parents.join(", "), one.status, String(one.step), number(one.objective), one.version === null ? "" : String(one.version),
    [clean(one.reason), Object.entries(one.changes).map(([name, pieces]) => el("details", {}, el("summary", {}, `changed ${clean(name)}`), words(pieces)))]]);
  return {
    title: `Lineage of ${run_id}`,
    body: [el("p", {}, link("#" + at("runs", run_id), `Run ${clean(run_id)}`)), el("h1", {}, "Lineage"), curve(found.candidates),
      rows.length ? table("Candidates in order", [">candidate", ">from", "status", ">step", ">validation", ">version", "~why, and what changed"], rows) : el("p", {}, "No candidate is there yet.")],
    again: run.status === "running",
    told: run.status === "running" ? `at work: ${found.candidates.length} candidates` : "",
  };
}

function curve(candidates) {
  const known = candidates.filter((one) => one.objective !== null && one.at !== null).sort((a, b) => a.at - b.at);
  if (known.length < 2) return null;
  const values = known.map((one) => one.objective), low = Math.min(...values), span = Math.max(...values) - low || 1, last = known[known.length - 1].at || 1;
  const spot = (one) => [600 * one.at / last, 200 - 190 * (one.objective - low) / span];
  const label = `Validation score over ${last} rollouts, from ${number(values[0])} to ${number(Math.max(...values))}`;
  return svg("svg", { class: "curve", viewBox: "-50 -10 670 240", role: "img", "aria-label": label },
    svg("line", { x1: 0, y1: 200, x2: 600, y2: 200 }),
    known.map((one) => { const [cx, cy] = spot(one); return svg("circle", { class: `dot ${one.status === "accepted" ? "accepted" : ""}`, cx, cy, r: 4 }, svg("title", {}, `candidate ${one.number}: ${number(one.objective)}`)); }),
    svg("text", { x: -6, y: 204, "text-anchor": "end" }, number(low, 2)), svg("text", { x: -6, y: 14, "text-anchor": "end" }, number(low + span, 2)), svg("text", { x: 600, y: 222, "text-anchor": "end" }, `${last} rollouts`));
}

// -- Comparing -----------------------------------------------------------------------------------

async function showCompare(_parts, query) {
  const a = query.get("a"), b = query.get("b"), by = query.get("by");
  const head = [el("h1", {}, "Compare"), form("#/compare", entry("a", "run or WORKFLOW@VERSION", a), entry("b", "with", b), entry("by", "by metadata field", by, "language"))];
  if (!a || !b) return { title: "Compare", body: head };
  const found = await get("/compare", { side: [a, b], by });
  const row = (name, one) => [clean(name), number(one.before), number(one.after), one.n ? (one.gain >= 0 ? "+" : "") + number(one.gain) : "-", interval(one.ci95), chance(one.mcnemar === null ? one.p_value : one.mcnemar), one.n, one.wins, one.losses, one.ties];
  const heads = ["score", ">before", ">after", ">change", ">95 % interval", ">p", ">n", ">wins", ">losses", ">ties"];
  const sides = found.sides.map((one) => [clean(one.name), one.cases, number(one.objective), percent(one.coverage), ms(one.latency_ms.p50), ms(one.latency_ms.p95), one.usage.tokens === null ? "-" : one.usage.tokens, money(one.usage.cost), found.front.includes(one.name) ? "yes" : ""]);
  return {
    title: "Compare",
    body: [head, found.notes.map((note) => el("p", {}, `Note: ${clean(note)}`)),
      table("Sides", ["side", ">cases", ">objective", ">coverage", ">p50", ">p95", ">tokens", ">cost", "front"], sides),
      found.contrasts.map((one) => [
        table(`${clean(one.after)} against ${clean(one.before)}`, heads, [...Object.entries(one.evaluators).map(([name, e]) => row(name, e)), row("objective", one.objective)]),
        Object.keys(one.strata).length ? table(`by ${clean(by)}`, heads, Object.entries(one.strata).map(([name, e]) => row(name, e))) : null,
        flips("bad", "broke", one.n_broke, one.broke), flips("good", "were fixed", one.n_fixed, one.fixed)])],
  };
}

function flips(kind, word, count, shown) {
  return [el("h2", {}, el("span", { class: count ? kind : "soft" }, `${count} cases ${word}`), count > shown.length ? ` (the first ${shown.length})` : ""),
    shown.map((flip) => el("details", {}, el("summary", {}, `${clean(flip.case_id)} (${clean(flip.evaluators.join(", "))}) `, el("span", { class: "soft" }, text(flip.inputs, 90))),
      el("dl", {}, block("inputs", flip.inputs), block("before", flip.before), block("after", flip.after), Object.entries(flip.reasons).map(([name, reason]) => pair(clean(name), clean(reason))))))];
}

// -- Which page ----------------------------------------------------------------------------------

const ROUTES = [
  [/^\/$/, showRuns],
  [/^\/compare$/, showCompare],
  [/^\/runs\/([^/]+)$/, showRun],
  [/^\/runs\/([^/]+)\/lineage$/, showLineage],
  [/^\/runs\/([^/]+)\/cases\/([^/]+)$/, showCase],
];

async function draw(refresh) {
  clearTimeout(timer);
  const mine = ++drawn;
  const [path, search] = (location.hash.slice(1) || "/").split("?");
  if (!path.startsWith("/")) return;
  const query = new URLSearchParams(search || "");
  let page;
  try {
    const [show, parts] = ROUTES.map(([pattern, show]) => [show, path.match(pattern)]).find(([, found]) => found) || [];
    if (!show) throw new Error("There is no such page.");
    page = await show(parts.slice(1).map(decodeURIComponent), query);
  } catch (error) {
    page = { title: "Error", body: [el("h1", {}, "That did not work"), el("p", { class: "bad" }, clean(error.message)), el("p", {}, link("#/", "All runs"))], again: refresh };
  }
  if (mine !== drawn) return;
  live.textContent = page.told || "";
  // A page that is read or filled in stays as it is; what is new comes with the next look.
  const busy = refresh && (main.contains(document.activeElement) || main.querySelector("details[open]"));
  if (!busy) {
    document.title = `${page.title} · agentensor`;
    main.replaceChildren(...page.body.flat(Infinity).filter(Boolean));
    if (!refresh && drawn > 1) main.focus();
  }
  if (page.again) timer = setTimeout(() => draw(true), EVERY_MS);
}

addEventListener("hashchange", () => draw(false));
draw(false);
