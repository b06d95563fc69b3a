// Asks about tool calls that wait for a decision.

import { call } from "./api.js";
import { visible } from "./ansi.js";
import { diffElement } from "./changes.js";
import { h, replace } from "./dom.js";
import { pathOf } from "./paths.js";
import { callTitle, ruleWords, time } from "./words.js";

/** Keeps an element filled with a form for each request; `update(pending)` takes `{execution_id, request}`. */
export function approvalList(element, { mayApprove, service = null }) {
  const forms = new Map();

  function update(pending) {
    const keys = new Set(pending.map(keyOf));
    for (const key of forms.keys()) if (!keys.has(key)) forms.delete(key);
    for (const each of pending) if (!forms.has(keyOf(each))) forms.set(keyOf(each), form(each, { mayApprove, service }));
    replace(element, ...pending.map((each) => forms.get(keyOf(each))));
    element.hidden = !pending.length;
  }

  update([]);
  return update;
}

function keyOf({ execution_id: id, request }) {
  return `${id} ${request.tool_call_id} ${request.generation ?? 0}`;
}

function form({ execution_id: id, tenant, request }, { mayApprove, service }) {
  const title = visible(callTitle(request.name, request.arguments)), rules = request.suggested_rules ?? [];
  const comment = h("input", { type: "text", maxlength: "1000", "aria-label": "Comment for the model", placeholder: "Comment for the model" });
  const edited = h("textarea", { "aria-label": "Arguments as JSON", rows: "6", spellcheck: "false" });
  edited.value = JSON.stringify(request.arguments ?? {}, null, 2);
  const editor = h("details", {}, h("summary", {}, "Edit the arguments"), edited);
  const message = h("p", { class: "error", role: "alert" });

  async function decide(action, more = {}) {
    try {
      replace(message);
      await call("SubmitApproval", {
        execution_id: id, tool_call_id: request.tool_call_id, generation: request.generation ?? 0,
        action: `APPROVAL_ACTION_${action}`, comment: comment.value, ...more,
      });
    } catch (error) {
      replace(message, visible(error.message));
    }
  }

  function approve(more) {
    const original = JSON.stringify(request.arguments ?? {}, null, 2);
    if (edited.value === original) return decide("APPROVE", more);
    try {
      return decide("APPROVE", { ...more, arguments: JSON.parse(edited.value) });
    } catch (error) {
      return replace(message, `The arguments are not JSON: ${error.message}`);
    }
  }

  const button = (text, onclick, className = "") => h("button", { type: "button", class: className, onclick }, text);
  const grant = () => approve({ grant: "APPROVAL_GRANT_SESSION", granted_rules: rules });
  return h("article", { class: "approval", "aria-label": `Approval of ${title}` },
    h("h3", {}, title),
    service ? h("p", {}, h("a", { href: pathOf({ execution_id: id, tenant }, service) }, visible(id))) : null,
    request.reason ? h("p", {}, `Asked because: ${visible(request.reason)}`) : null,
    request.diff ? diffElement(request.diff, { columns: 200, rows: 500 }) : null,
    request.diff_truncated ? h("p", { class: "error" }, "The diff is not complete.") : null,
    request.expire_time ? h("p", { class: "meta" }, `Waits until ${time(request.expire_time)}`) : null,
    mayApprove ? [editor, comment, h("div", { class: "buttons" },
      button("Approve", () => approve({}), "primary"),
      rules.length ? button("Approve for the session", grant) : null,
      button("Skip", () => decide("SKIP")), button("Reject", () => decide("REJECT"), "danger")),
    rules.length ? h("p", { class: "meta" }, `For the session would allow: ${rules.map((rule) => visible(ruleWords(rule))).join("; ")}`) : null]
      : h("p", { class: "meta" }, "You may watch, but not decide."),
    message);
}
