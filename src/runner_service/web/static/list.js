// The list of executions, kept up to date.

import { call } from "./api.js";
import { visible } from "./ansi.js";
import { eachFrame, h, replace } from "./dom.js";
import { Rows } from "./rows.js";
import { cost, duration, stateWord, time, tokens } from "./words.js";

const REFRESH_MILLISECONDS = 2000;
const FIRST_PAGE = 100;
const PAGE = 500;
const ACTIVE = ["STATE_PENDING", "STATE_RUNNING", "STATE_WAITING", "STATE_INTERRUPTED"];
const STATES = [...ACTIVE, "STATE_SUCCEEDED", "STATE_FAILED", "STATE_CANCELLED", "STATE_TIMED_OUT"];
const COLUMNS = [
  ["State", (each) => stateWord(each.state), (each) => each.state ?? ""],
  ["Execution", (each) => each.execution_id, (each) => each.execution_id],
  ["Agent", (each) => each.agent_name ?? "", (each) => each.agent_name ?? ""],
  ["Session", (each) => each.session_id ?? "", (each) => each.session_id ?? ""],
  ["Created", (each) => time(each.create_time), (each) => each.create_time ?? 0],
  ["Took", (each) => duration((each.finish_time ?? (ACTIVE.includes(each.state) ? Date.now() / 1000 : NaN)) - (each.start_time ?? NaN)), (each) => (each.finish_time ?? 0) - (each.start_time ?? 0)],
  ["Tokens", (each) => tokens(each.usage), (each) => (each.usage?.input_tokens ?? 0) + (each.usage?.output_tokens ?? 0)],
  ["Cost", (each) => cost(each.cost), (each) => each.cost?.nanos ?? 0],
];

export class ExecutionList {
  constructor({ isOperator, onproblem }) {
    this._known = new Map();
    this._nextPage = "";
    this._hasMore = true;
    this._sortBy = 4;
    this._descending = true;
    this._generation = 0;
    this._shown = [];
    this._onproblem = onproblem;
    this._rows = new Rows({ label: "Executions", role: "table", count: () => this._shown.length, row: (index) => this._row(this._shown[index]), onscroll: (rows) => this._loadAtEnd(rows) });
    this._heads = h("div", { class: "row head", role: "row" }, ...COLUMNS.map(([name], index) => h("button", { type: "button", role: "columnheader", onclick: () => this._sort(index) }, name)));
    const field = (name, attributes) => h("label", {}, name, h("input", { oninput: () => this._changed(), ...attributes, name }));
    this._state = h("select", { name: "State", onchange: () => this._changed() }, h("option", { value: "" }, "every state"), h("option", { value: "active" }, "not ended"), ...STATES.map((state) => h("option", { value: state }, stateWord(state))));
    this._filters = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", {}, "State", this._state), field("Session", {}), field("Label", { placeholder: "name=value" }), field("Name", { oninput: () => this._draw() }),
      field("Since", { type: "datetime-local" }), field("Until", { type: "datetime-local" }), isOperator ? field("Tenant", { placeholder: "* for all" }) : null);
    this._count = h("p", { class: "meta", "aria-live": "polite" });
    this.element = h("section", { class: "list" }, this._filters, this._count, this._heads, this._rows.element);
    this._draw = eachFrame(() => this._redraw());
    this._timer = setInterval(() => { if (!document.hidden) this._refresh(); }, REFRESH_MILLISECONDS);
    this._refresh();
  }

  close() {
    clearInterval(this._timer);
  }

  _changed() {
    this._generation++;
    this._known.clear();
    this._nextPage = "";
    this._hasMore = true;
    this._draw();
    this._refresh();
  }

  _value(name) {
    return this._filters.querySelector(`input[name=${name}]`)?.value.trim() ?? "";
  }

  _request(states) {
    const state = this._state.value, [label, ...value] = this._value("Label").split("=");
    const moment = (name) => (this._value(name) ? new Date(this._value(name)).toISOString() : undefined);
    return {
      states: states ?? (state === "active" ? ACTIVE : state ? [state] : []), session_id: this._value("Session"),
      labels: label && value.length ? { [label]: value.join("=") } : {}, created_after: moment("Since"), created_before: moment("Until"),
      tenant: this._value("Tenant"),
    };
  }

  async _refresh() {
    const generation = this._generation;
    try {
      const newest = await call("ListExecutions", { ...this._request(), page_size: FIRST_PAGE });
      // What goes on further back, or has ended since it was seen.
      const stale = [...this._known.values()].some((each) => ACTIVE.includes(each.state));
      const active = !this._state.value && stale ? await call("ListExecutions", { ...this._request(ACTIVE), page_size: PAGE }) : null;
      if (generation !== this._generation) return;
      if (active) await this._settle(active.executions, newest.executions);
      this._add([...(active?.executions ?? []), ...newest.executions]);
      if (this._hasMore && !this._nextPage) { this._nextPage = newest.next_page_token ?? ""; this._hasMore = Boolean(this._nextPage); }
      this._onproblem("");
    } catch (error) {
      this._onproblem(error.message, error.code);
    }
    this._rows.update(); // what goes on takes longer
  }

  /** Takes what was read; the list is sorted again only if something has changed. */
  _add(executions) {
    for (const each of executions) {
      const key = this._key(each), known = this._known.get(key);
      if (known && known.state === each.state && known.last_sequence === each.last_sequence && known.pending_approvals === each.pending_approvals) continue;
      this._known.set(key, each);
      this._draw();
    }
  }

  /** Asks about those that were active, and are in neither list any more. */
  async _settle(...lists) {
    const listed = new Set(lists.flat().map((each) => this._key(each)));
    const gone = [...this._known.values()].filter((each) => ACTIVE.includes(each.state) && !listed.has(this._key(each)) && !each.tenant?.length).slice(0, 20);
    for (const each of gone) {
      const found = await call("GetExecution", { execution_id: each.execution_id }).catch(() => null);
      if (found) this._add([found.execution]); else if (this._known.delete(this._key(each))) this._draw();
    }
  }

  _key(each) {
    return `${each.tenant ?? ""}~${each.execution_id}`;
  }

  async _loadAtEnd({ element }) {
    if (!this._nextPage || this._isLoading || element.scrollTop + element.clientHeight * 2 < element.scrollHeight) return;
    this._isLoading = true;
    try {
      const generation = this._generation, page = await call("ListExecutions", { ...this._request(), page_size: PAGE, page_token: this._nextPage });
      if (generation !== this._generation) return;
      this._add(page.executions);
      this._nextPage = page.next_page_token ?? "";
      this._hasMore = Boolean(this._nextPage);
    } catch (error) {
      this._onproblem(error.message, error.code);
    } finally {
      this._isLoading = false;
    }
    this._draw();
  }

  _sort(index) {
    this._descending = this._sortBy === index ? !this._descending : true;
    this._sortBy = index;
    this._draw();
  }

  _redraw() {
    const name = this._value("Name").toLowerCase(), key = COLUMNS[this._sortBy][2], direction = this._descending ? -1 : 1;
    const matching = [...this._known.values()].filter((each) => !name || `${each.agent_name ?? ""} ${each.execution_id}`.toLowerCase().includes(name));
    const keyed = matching.map((each) => ({ each, by: key(each), waits: each.pending_approvals ? 1 : 0 }));
    keyed.sort((one, other) => other.waits - one.waits || (one.by < other.by ? -1 : one.by > other.by ? 1 : 0) * direction);
    this._shown = keyed.map(({ each }) => each);
    replace(this._count, `${this._shown.length.toLocaleString("en")} shown${this._hasMore ? "; scroll for more" : ""}`);
    this._heads.querySelectorAll("button").forEach((button, index) => button.setAttribute("aria-sort", index !== this._sortBy ? "none" : this._descending ? "descending" : "ascending"));
    this._rows.draw();
  }

  _row(each) {
    const cells = COLUMNS.map(([, text], index) => h("span", { role: "cell", class: index === 0 ? `state ${stateWord(each.state).replace(" ", "-")}` : "" }, visible(text(each))));
    const waits = each.pending_approvals ? " (asks)" : "";
    if (waits) cells[0].append(waits);
    return h("a", { class: "row execution-row", role: "row", "data-key": each.execution_id, href: `#/execution/${encodeURIComponent(each.execution_id)}` }, ...cells);
  }
}
