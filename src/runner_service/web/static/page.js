// The page: the list of executions, and one of them, live.

import { about, call, login, streamForever } from "./api.js";
import { approvalList } from "./approvals.js";
import { visible } from "./ansi.js";
import { h, replace } from "./dom.js";
import { screenOf } from "./layout.js";
import { ExecutionList } from "./list.js";
import { Run } from "./run.js";
import { ExecutionView } from "./view.js";
import { stateWord } from "./words.js";

const EARLIER_BYTES = 256 * 1024;
const problem = h("p", { class: "problem", role: "status" });
const place = h("div", { class: "place" });
let leave = () => {};

async function begin() {
  document.body.append(h("header", {}, h("a", { href: "#/" }, h("h1", {}, "runner-service")), problem), place);
  const token = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(null, "", "/#/");
    await login(decodeURIComponent(token)).catch((error) => say(error.message));
  }
  await enter();
}

async function enter() {
  try {
    const service = await about();
    window.onhashchange = () => route(service);
    route(service);
  } catch (error) {
    if (error.code === "UNAUTHENTICATED") askForToken(); else { say("The service does not answer; trying again."); setTimeout(enter, 1000); }
  }
}

function askForToken() {
  const field = h("input", { type: "password", name: "token", autocomplete: "off", "aria-label": "Token" });
  const send = async (event) => {
    event.preventDefault();
    try { await login(field.value); say(""); await enter(); } catch (error) { say(error.message); }
  };
  replace(place, h("form", { class: "login", onsubmit: send }, h("label", {}, "Token", field), h("button", { type: "submit", class: "primary" }, "Sign in")));
}

function say(text, code = "") {
  replace(problem, visible(text));
  if (code === "UNAUTHENTICATED") { leave(); askForToken(); }
}

function route(service) {
  leave();
  say("");
  const execution = /^#\/execution\/(.+)$/.exec(location.hash);
  if (execution) showExecution(decodeURIComponent(execution[1]), service); else showList(service);
}

function showList(service) {
  const abort = new AbortController(), approvals = h("section", { class: "approvals", "aria-label": "Waiting for your decision" });
  const list = new ExecutionList({ isOperator: service.is_operator, onproblem: say });
  const update = approvalList(approvals, { mayApprove: service.may_approve, showExecution: true });
  document.title = "runner-service";
  replace(place, approvals, list.element);
  streamForever("WatchApprovals", () => ({}), abort.signal, (message) => { if (!message.keepalive) update(message.approvals); }, { onstate: say });
  leave = () => { abort.abort(); list.close(); };
}

function showExecution(id, service) {
  const abort = new AbortController(), run = new Run();
  const cancel = h("button", { type: "button", class: "danger", onclick: () => call("CancelExecution", { execution_id: id, reason: "on the page" }).catch((error) => say(error.message)) }, "Cancel");
  const view = new ExecutionView({ run, isLive: true, actions: service.may_run ? [cancel] : [], loadEarlier: (item) => loadEarlier(id, item), loadDiff: () => loadDiff(id) });
  const update = approvalList(view.approvals, { mayApprove: service.may_approve });
  document.title = `${id} · runner-service`;
  replace(place, h("h2", {}, visible(id)), view.element);
  const onmessage = (message) => {
    for (const event of message.events) run.apply(event);
    update(run.pending.map((item) => ({ execution_id: id, request: item.request })));
    if (run.finished) { cancel.hidden = true; document.title = `${id}: ${stateWord(run.finished.state)}`; }
    view.update();
  };
  streamForever("WatchExecution", () => ({ execution_id: id, after_sequence: run.lastSequence }), abort.signal, onmessage, { isOver: () => run.finished, onstate: say });
  leave = () => { abort.abort(); view.close(); };
}

/** Reads the output of a command that came before what its screen holds, as far back as fits. */
async function loadEarlier(id, item) {
  const stream = item.bytes.stdout >= item.bytes.stderr ? "stdout" : "stderr";
  const end = Math.max(0, item.bytes[stream] - EARLIER_BYTES), offset = Math.max(0, end - EARLIER_BYTES);
  const { data } = await call("ReadToolOutput", {
    execution_id: id, tool_call_id: item.call.tool_call_id, stream: `OUTPUT_STREAM_${stream.toUpperCase()}`, offset, max_bytes: Math.max(1, end - offset),
  });
  item.earlier = screenOf(data ?? new Uint8Array(), stream);
  item.open = true;
  item.version++;
}

async function loadDiff(id) {
  const { diff, truncated } = await call("GetDiff", { execution_id: id });
  return `${diff ?? ""}${truncated ? "\n(the diff is not complete)" : ""}`;
}

begin();
