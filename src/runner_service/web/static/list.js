// The list of executions, kept up to date. The service filters and sorts; the page keeps what it has read in that order.

import { call } from "./api.js";
import { visible } from "./ansi.js";
import { eachFrame, h, replace } from "./dom.js";
import { pathOf } from "./paths.js";
import { Rows } from "./rows.js";
import { cost, duration, stateClass, stateWord, time, tokens } from "./words.js";

const REFRESH_MILLISECONDS = 2000;
const TYPING_MILLISECONDS = 250;
const FIRST_PAGE = 100;
const PAGE = 500;
const MAX_SETTLED = 20;
const ACTIVE = ["STATE_PENDING", "STATE_RUNNING", "STATE_WAITING", "STATE_INTERRUPTED"];
const STATES = [...ACTIVE, "STATE_SUCCEEDED", "STATE_FAILED", "STATE_CANCELLED", "STATE_TIMED_OUT"];
const BY_NUMBER = ["STATE_PENDING", "STATE_RUNNING", "STATE_INTERRUPTED", "STATE_SUCCEEDED", "STATE_FAILED", "STATE_CANCELLED", "STATE_TIMED_OUT", "STATE_WAITING"];

function took(each) {
  return (each.finish_time ?? (ACTIVE.includes(each.state) ? Date.now() / 1000 : NaN)) - (each.start_time ?? NaN);
}

/** Name, order of the service, text of a cell, and the value by which the service sorts. */
const COLUMNS = [
  ["State", "STATE", (each) => stateWord(each.state), (each) => BY_NUMBER.indexOf(each.state)],
  ["Execution", "EXECUTION_ID", (each) => each.execution_id, (each) => each.execution_id],
  ["Agent", "AGENT_NAME", (each) => each.agent_name ?? "", (each) => each.agent_name ?? ""],
  ["Session", "SESSION_ID", (each) => each.session_id ?? "", (each) => each.session_id ?? ""],
  ["Created", "CREATE_TIME", (each) => time(each.create_time), (each) => each.create_time ?? 0],
  ["Took", "DURATION", (each) => duration(took(each)), (each) => (each.start_time ? took(each) || 0 : -1)],
  ["Tokens", "TOKENS", (each) => tokens(each.usage), (each) => (each.usage?.input_tokens ?? 0) + (each.usage?.output_tokens ?? 0)],
  ["Cost", "COST", (each) => cost(each.cost), (each) => each.cost?.nanos ?? 0],
];
const CREATED = 4;

export class ExecutionList {
  constructor({ service, onproblem }) {
    this._service = service;
    this._known = new Map();
    this._nextPage = "";
    this._hasMore = true;
    this._hasLoaded = false;
    this._sortBy = CREATED;
    this._descending = true;
    this._generation = 0;
    this._shown = [];
    this._onproblem = onproblem;
    this._rows = new Rows({
      label: "Executions", role: "rowgroup", count: () => this._shown.length, row: (index) => this._row(this._shown[index]),
      identity: (index) => (ACTIVE.includes(this._shown[index].state) ? null : this._shown[index]), onscroll: (rows) => this._loadAtEnd(rows),
    });
    this._heads = h("div", { class: "row head", role: "row" }, ...COLUMNS.map(([name], index) => h("div", { role: "columnheader" },
      h("button", { type: "button", onclick: () => this._sort(index) }, name, h("span", { class: "direction", "aria-hidden": "true" })))));
    this._filters = this._makeFilters();
    this._count = h("p", { class: "meta", role: "status" });
    this._empty = h("div", { class: "empty", hidden: true });
    this.element = h("section", { class: "list", "aria-label": "Executions" }, this._filters, this._count,
      h("div", { class: "table", role: "table", "aria-label": "Executions" }, this._heads, this._empty, this._rows.element));
    this._draw = eachFrame(() => this._redraw());
    this._timer = setInterval(() => { if (!document.hidden) this._refresh(); }, REFRESH_MILLISECONDS);
    this._refresh();
  }

  close() {
    clearInterval(this._timer);
    clearTimeout(this._typing);
  }

  _makeFilters() {
    const typed = () => { clearTimeout(this._typing); this._typing = setTimeout(() => this._changed(), TYPING_MILLISECONDS); };
    const field = (name, attributes) => h("label", {}, name, h("input", { oninput: typed, ...attributes, name }));
    this._state = h("select", { name: "State", onchange: () => this._changed() }, h("option", { value: "" }, "every state"),
      h("option", { value: "active" }, "not ended"), ...STATES.map((state) => h("option", { value: state }, stateWord(state))));
    return h("form", { class: "filters", role: "search", "aria-label": "Filter", onsubmit: (event) => { event.preventDefault(); this._changed(); } },
      field("Name", { type: "search", placeholder: "id or agent", maxlength: "256" }), h("label", {}, "State", this._state), field("Session", {}), field("Label", { placeholder: "name=value" }),
      field("Since", { type: "datetime-local" }), field("Until", { type: "datetime-local" }),
      this._service.is_operator ? field("Tenant", { placeholder: "* for all" }) : null);
  }

  _changed() {
    this._generation++;
    this._known.clear();
    this._nextPage = "";
    this._hasMore = true;
    this._hasLoaded = false;
    this._draw();
    this._refresh();
  }

  _clear() {
    this._filters.reset();
    this._changed();
  }

  _value(name) {
    return this._filters.querySelector(`input[name=${name}]`)?.value.trim() ?? "";
  }

  _request(states) {
    const state = this._state.value, [label, ...value] = this._value("Label").split("=");
    const moment = (name) => (this._value(name) ? new Date(this._value(name)).toISOString() : undefined);
    const isDefault = this._sortBy === CREATED && this._descending;
    return {
      states: states ?? (state === "active" ? ACTIVE : state ? [state] : []), session_id: this._value("Session"),
      labels: label && value.length ? { [label]: value.join("=") } : {}, created_after: moment("Since"), created_before: moment("Until"),
      tenant: this._value("Tenant"), name: this._value("Name"),
      ...(isDefault ? {} : { order_by: `EXECUTION_ORDER_${COLUMNS[this._sortBy][1]}`, ascending: !this._descending }),
    };
  }

  async _refresh() {
    if (this._refreshing === this._generation) return; // a slow service is not asked twice
    const generation = (this._refreshing = this._generation);
    try {
      const newest = await call("ListExecutions", { ...this._request(), page_size: FIRST_PAGE });
      // What goes on further back, or has ended since it was seen.
      const stale = [...this._known.values()].some((each) => ACTIVE.includes(each.state));
      const active = !this._state.value && stale ? await call("ListExecutions", { ...this._request(ACTIVE), page_size: PAGE }) : null;
      if (generation !== this._generation) return;
      if (active) await this._settle(active.executions, newest.executions);
      this._add([...(active?.executions ?? []), ...newest.executions]);
      if (this._hasMore && !this._nextPage) { this._nextPage = newest.next_page_token ?? ""; this._hasMore = Boolean(this._nextPage); }
      if (!this._hasLoaded) { this._hasLoaded = true; this._draw(); }
      this._onproblem("");
    } catch (error) {
      if (generation === this._generation) this._onproblem(error.message, error.code);
    } finally {
      if (this._refreshing === generation) this._refreshing = -1;
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
    const gone = [...this._known.values()].filter((each) => ACTIVE.includes(each.state) && !listed.has(this._key(each))).slice(0, MAX_SETTLED);
    for (const each of gone) {
      // By a list, since looking at one of another tenant would be audited.
      const page = await call("ListExecutions", { tenant: this._value("Tenant"), name: each.execution_id, created_after: new Date((each.create_time ?? 0) * 1000 - 1).toISOString() }).catch(() => null);
      const found = page?.executions.find((other) => this._key(other) === this._key(each));
      if (found) this._add([found]); else if (page && this._known.delete(this._key(each))) this._draw();
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
    this._rows.element.scrollTop = 0;
    this._changed();
  }

  _redraw() {
    const key = COLUMNS[this._sortBy][3], direction = this._descending ? -1 : 1;
    const keyed = Array.from(this._known.values(), (each) => ({ each, by: key(each), at: each.create_time ?? 0, waits: each.pending_approvals ? 1 : 0 }));
    keyed.sort((one, other) => other.waits - one.waits || (one.by < other.by ? -1 : one.by > other.by ? 1 : 0) * direction || other.at - one.at);
    this._shown = keyed.map(({ each }) => each);
    replace(this._count, this._hasLoaded ? `${this._shown.length.toLocaleString("en")} shown${this._hasMore ? "; scroll for more" : ""}` : "Loading…");
    [...this._heads.children].forEach((head, index) => {
      const sorted = index !== this._sortBy ? "none" : this._descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", sorted);
      head.querySelector(".direction").textContent = { none: "", descending: " ↓", ascending: " ↑" }[sorted];
    });
    this._drawEmpty();
    this._rows.draw();
  }

  _drawEmpty() {
    const isEmpty = this._hasLoaded && !this._shown.length;
    this._empty.hidden = !isEmpty;
    this._rows.element.hidden = isEmpty;
    if (!isEmpty) return;
    const isFiltered = [...this._filters.elements].some((each) => each.value);
    replace(this._empty, ...(isFiltered
      ? [h("p", {}, "No execution matches these filters."), h("button", { type: "button", onclick: () => this._clear() }, "Clear the filters")]
      : [h("p", {}, "No executions yet."), h("p", { class: "meta" }, "What a client starts, or `runner-service run`, appears here by itself.")]));
  }

  _row(each) {
    const href = pathOf(each, this._service);
    const cells = COLUMNS.map(([name, , text], index) => {
      const shown = visible(text(each)), className = index === 0 ? `state ${stateClass(each.state)}` : `column-${name.toLowerCase()}`;
      const content = index === 1 ? h("a", { href, "data-key": this._key(each), title: shown }, shown) : shown;
      return h("span", { role: "cell", class: className, title: index > 1 && shown ? shown : false }, content);
    });
    if (each.pending_approvals) cells[0].append(" (asks)");
    if (this._value("Tenant") && each.tenant) cells[1].append(h("span", { class: "tenant" }, ` ${visible(each.tenant)}`));
    return h("div", { class: "row execution-row", role: "row", "data-id": each.execution_id, onclick: (event) => { if (!event.target.closest("a")) location.hash = href; } }, ...cells);
  }
}
