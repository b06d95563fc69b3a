// The replicas of the service: who owns what, queue, rates, lag; and what tenants have used.

import { replicas, usage } from "./api.js";
import { visible } from "./ansi.js";
import { h, replace } from "./dom.js";
import { pathOf } from "./paths.js";
import { bytes, cost, count, duration, stateClass, stateWord } from "./words.js";

const REFRESH_MILLISECONDS = 2000;
const USAGE_EVERY = 15; // refreshes
const SILENT_SECONDS = 3;

export class ReplicaScreen {
  constructor({ service, onproblem }) {
    this._service = service;
    this._onproblem = onproblem;
    this._cards = h("div", { class: "cards" }, h("p", { class: "meta" }, "Loading…"));
    this._usage = h("section", { class: "usage", "aria-label": "Usage" });
    this.element = h("main", { class: "overview" },
      service.is_operator ? h("section", { "aria-label": "Replicas" }, h("h2", {}, "Replicas"), this._cards) : null, this._usage);
    this._round = 0;
    this._timer = setInterval(() => { if (!document.hidden) this._refresh(); }, REFRESH_MILLISECONDS);
    this._refresh();
  }

  close() {
    clearInterval(this._timer);
  }

  async _refresh() {
    if (this._isBusy) return;
    this._isBusy = true;
    try {
      if (this._service.is_operator) this._drawReplicas(await replicas());
      if (this._round++ % USAGE_EVERY === 0) this._drawUsage(await usage());
      this._onproblem("");
    } catch (error) {
      this._onproblem(error.message, error.code);
    } finally {
      this._isBusy = false;
    }
  }

  _drawReplicas({ replicas: found, this: own, now }) {
    const open = new Set([...this._cards.querySelectorAll("details[open]")].map((each) => each.dataset.name));
    const focused = this._cards.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    replace(this._cards, ...found.map((each) => this._card(each, { isOwn: each.name === own, now, isOpen: open.has(each.name) })));
    if (focused) this._cards.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  _card(each, { isOwn, now, isOpen }) {
    const silent = now - each.reported_at, isSilent = silent > SILENT_SECONDS;
    const figure = (name, value, isBad = false) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", { class: isBad ? "bad" : "" }, value));
    const stage = isSilent ? `silent for ${duration(silent)}` : each.stage;
    return h("article", { class: "card", "aria-label": `Replica ${each.name}` },
      h("h3", {}, visible(each.address || each.name), h("span", { class: `state stage-${stage.split(" ")[0]}` }, ` ${visible(stage)}`)),
      h("p", { class: "meta" }, visible([each.name === "local" ? "the only process" : each.name, isOwn && each.name !== "local" ? "answers this page" : "",
        each.version, `process ${each.process}`, `up ${duration(now - each.started_at)}`].filter(Boolean).join(" · "))),
      h("dl", { class: "figures" },
        figure("running", each.running), figure("in the queue", each.queued), figure("to approve", each.waiting), figure("watchers", each.watchers),
        figure("events / s", each.events_per_second), figure("ended / min", each.ended_per_minute),
        figure("uncommitted", bytes(each.backlog_bytes), each.backlog_bytes > 4e6), figure("loop lag", duration(each.loop_lag_seconds), each.loop_lag_seconds > 0.25)),
      each.executions.length ? h("details", { "data-name": each.name, open: isOpen }, h("summary", { "data-key": `owns-${each.name}` }, `owns ${count(each.executions.length, "execution")}`),
        h("ul", { class: "owned" }, ...each.executions.map((owned) => this._owned(owned)))) : h("p", { class: "meta" }, "owns nothing now"));
  }

  _owned(owned) {
    return h("li", {}, h("span", { class: `state ${stateClass(owned.state)}` }, stateWord(owned.state)), " ",
      h("a", { href: pathOf(owned, this._service), "data-key": `owned-${owned.tenant}~${owned.execution_id}` }, visible(owned.execution_id)),
      owned.tenant === this._service.tenant ? null : h("span", { class: "tenant" }, ` ${visible(owned.tenant)}`));
  }

  _drawUsage({ tenants, complete }) {
    const number = (value) => h("td", { class: "number" }, (value ?? 0).toLocaleString("en"));
    const money = (nanos) => Object.entries(nanos).map(([currency, value]) => cost({ nanos: value, currency })).join(", ");
    const rows = tenants.map((each) => h("tr", {}, h("th", { scope: "row" }, visible(each.tenant)), number(each.executions), number(each.failed),
      number(each.model_calls), number(each.input_tokens), number(each.output_tokens), h("td", { class: "number" }, visible(money(each.cost_nanos)) || "–")));
    replace(this._usage, h("h2", {}, "Usage of the last 24 hours"), rows.length
      ? h("div", { class: "scrolls" }, h("table", {}, h("caption", {}, complete ? "By executions that were accepted then and have ended." : "By the newest 10,000 executions; there are more."),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Tenant"), ...["Executions", "Failed", "Model calls", "Input tokens", "Output tokens", "Cost"].map((name) => h("th", { scope: "col", class: "number" }, name)))),
        h("tbody", {}, ...rows)))
      : h("p", { class: "meta" }, "Nothing was started in the last 24 hours."));
  }
}
