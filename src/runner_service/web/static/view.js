// The view of one execution: timeline, transcript, plan, changes and tokens. The page and the file share it.

import { visible } from "./ansi.js";
import { ChangesPanel } from "./changes.js";
import { paint } from "./colours.js";
import { eachFrame, h, replace } from "./dom.js";
import { rowsOf } from "./layout.js";
import { Rows } from "./rows.js";
import { timeline } from "./timeline.js";
import { cost, count, duration, stateClass, stateWord, time, tokens } from "./words.js";

const CHARACTER_PIXELS = 7.85;
const TABS = ["Transcript", "Plan", "Changes", "Tokens"];

/** `loadEarlier(item)` reads output that the view does not hold; absent in a file. */
export class ExecutionView {
  constructor({ run, isLive = false, loadEarlier = null, loadChanges = null, revert = null, onproblem = () => {}, actions = [] }) {
    this.run = run;
    this._loadEarlier = loadEarlier;
    this._onproblem = onproblem;
    this._columns = 100;
    this._starts = [];
    this._total = 0;
    this.transcript = new Rows({ label: "Transcript", count: () => this._measure(), row: (index) => this._element(index), identity: (index) => this._find(index).row });
    this.transcript.follows = true;
    this.transcript.follow = isLive;
    this._timeline = timeline((item) => { this._show("Transcript"); this._measure(); this.transcript.jump(this._starts[item.index]); });
    this._summary = h("div", { class: "summary", "aria-live": "polite" });
    this._panels = Object.fromEntries(TABS.map((tab) => [tab, h("section", { class: "panel", role: "tabpanel", "aria-label": tab, hidden: tab !== "Transcript" })]));
    this._panels.Transcript.append(this.transcript.element,
      h("button", { class: "to-end", type: "button", onclick: () => this.transcript.jumpToEnd() }, "Newest ↓"));
    this._changes = new ChangesPanel(this._panels.Changes, { run, load: loadChanges, revert });
    this._tabs = h("div", { class: "tabs", role: "tablist" }, ...TABS.map((tab) => h("button", {
      type: "button", role: "tab", "data-tab": tab, "aria-selected": String(tab === "Transcript"), onclick: () => this._show(tab),
    }, tab)), ...actions);
    this.approvals = h("section", { class: "approvals", "aria-label": "Waiting for your decision" });
    this.element = h("main", { class: "execution" }, this._summary, this._timeline.element, this.approvals, this._tabs, ...Object.values(this._panels));
    this._draw = eachFrame(() => this.draw());
    new ResizeObserver(() => this._draw()).observe(this.transcript.element);
    this._isLive = isLive;
    this._clock = setInterval(() => { if (isLive && !run.finished) this._draw(); }, 1000);
    this._draw();
  }

  update() {
    this._draw();
  }

  close() {
    clearInterval(this._clock);
  }

  draw() {
    const { run } = this, width = this.transcript.element.clientWidth;
    if (width) this._columns = Math.max(20, Math.floor((width - 60) / CHARACTER_PIXELS));
    this._drawSummary();
    this._timeline.draw(run, this._now());
    this.transcript.update();
    this._drawPlan();
    this._drawTokens();
    if (!this._panels.Changes.hidden) this._changes.draw();
  }

  _now() {
    return this._isLive && !this.run.finished ? Date.now() / 1000 : this.run.lastAt;
  }

  _drawSummary() {
    const { run } = this, last = run.steps[run.steps.length - 1];
    const state = run.finished?.state ?? (run.pending.length && !run.spans.some((span) => !span.end && span.kind !== "wait") ? "STATE_WAITING" : run.started ? "STATE_RUNNING" : "STATE_PENDING");
    const model = run.started?.model;
    replace(this._summary,
      h("span", { class: `state ${stateClass(state)}` }, stateWord(state)),
      model ? h("span", {}, visible(`${model.provider}/${model.name}`)) : null,
      run.firstAt ? h("span", {}, time(run.firstAt)) : null,
      h("span", {}, duration(run.finished?.elapsed ?? (run.firstAt ? this._now() - run.firstAt : 0))),
      last ? h("span", {}, `${tokens(last.usage)} tokens`) : null,
      last?.cost ? h("span", {}, cost(last.cost)) : null,
      h("span", {}, count(run.lastSequence, "event")),
      run.started?.trace_id ? h("span", {}, "trace ", h("code", { class: "trace" }, visible(run.started.trace_id))) : null,
      run.finished?.error ? h("p", { class: "error" }, visible(`${run.finished.error.code}: ${run.finished.error.message}`)) : null);
  }

  _drawPlan() {
    if (this._planDrawn === this.run.planVersion && this._planDrawn) return;
    this._planDrawn = this.run.planVersion;
    const marks = { STATUS_COMPLETED: "☑", STATUS_IN_PROGRESS: "▶" };
    replace(this._panels.Plan, this.run.plan.length
      ? h("ul", { class: "plan" }, ...this.run.plan.map((todo) => h("li", { class: (todo.status ?? "").toLowerCase() }, `${marks[todo.status] ?? "☐"} ${visible(todo.content ?? "")}`)))
      : h("p", {}, "No plan."));
  }

  _drawTokens() {
    const { steps } = this.run;
    if (this._stepsDrawn === steps.length && steps.length) return;
    this._stepsDrawn = steps.length;
    const rows = steps.slice(-500).map((step, index, shown) => {
      const before = shown[index - 1]?.usage ?? (steps.length > 500 ? steps[steps.length - 501].usage : {});
      const added = Object.fromEntries(["input_tokens", "output_tokens", "cached_tokens"].map((key) => [key, (step.usage[key] ?? 0) - (before[key] ?? 0)]));
      return h("tr", {}, h("td", {}, time(step.at)), h("td", {}, tokens(added)), h("td", {}, tokens(step.usage)), h("td", {}, cost(step.cost)));
    });
    replace(this._panels.Tokens, rows.length
      ? h("table", {}, h("caption", {}, "Tokens of each model call"), h("thead", {}, h("tr", {}, ...["When", "This call", "So far", "Cost so far"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...rows))
      : h("p", {}, "No model call has ended."));
  }

  _show(tab) {
    for (const [name, panel] of Object.entries(this._panels)) panel.hidden = name !== tab;
    for (const button of this._tabs.querySelectorAll("[role=tab]")) button.setAttribute("aria-selected", String(button.dataset.tab === tab));
    this.draw();
  }

  _measure() {
    let total = 0;
    const { items } = this.run;
    for (let index = 0; index < items.length; index++) {
      const item = items[index];
      if (this._loadEarlier && item.kind === "call") item.onEarlier = this._loadEarlier;
      this._starts[index] = total;
      total += rowsOf(item, this._columns).length;
    }
    this._total = total;
    return total;
  }

  _find(index) {
    let low = 0, high = this.run.items.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this._starts[middle] <= index) low = middle; else high = middle - 1;
    }
    const item = this.run.items[low];
    return { item, row: item.rows[index - this._starts[low]] };
  }

  _element(index) {
    const { item, row } = this._find(index);
    if (row.fold || row.load) return this._foldRow(row, item);
    return h("div", { class: `row ${row.className}${row.depth ? " inner" : ""}` },
      ...row.runs.map((run) => run.style ? paint(h("span", {}, run.text), run.style) : run.text));
  }

  _foldRow(row, item) {
    const press = async () => {
      if (row.load) await this._loadEarlier(item).catch((error) => this._onproblem(error.message)); else { item.open = !item.open; item.version++; }
      this.transcript.follow = false;
      this.update();
    };
    return h("button", { class: `row fold${row.depth ? " inner" : ""}`, type: "button", "data-key": `fold-${item.index}`, onclick: press }, row.runs[0].text);
  }
}
