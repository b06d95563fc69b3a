// The page: the list of executions, and one of them, live.

import { about, actFor, call, login, streamForever } from "./api.js";
import { approvalList } from "./approvals.js";
import { visible } from "./ansi.js";
import { h, replace } from "./dom.js";
import { earlierOf, screenOf } from "./layout.js";
import { ExecutionList } from "./list.js";
import { screenAt } from "./paths.js";
import { ReplicaScreen } from "./replicas.js";
import { Run } from "./run.js";
import { ExecutionView } from "./view.js";
import { stateWord } from "./words.js";

const EARLIER_BYTES = 256 * 1024;
const problem = h("p", { class: "problem", role: "status" });
const navigation = h("nav", { "aria-label": "Screens" });
const place = h("div", { class: "place" });
let leave = () => {};

async function begin() {
  document.body.append(h("header", {}, h("a", { href: "#/" }, h("h1", {}, "runner-service")), navigation), problem, place);
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
  const { screen, id, tenant } = screenAt(location.hash);
  actFor(tenant);
  drawNavigation(screen, service);
  if (screen === "replicas") return showReplicas(service);
  if (screen === "execution") return showExecution(id, tenant, service);
  return showList(service);
}

function drawNavigation(screen, service) {
  const link = (name, href, text) => h("a", { href, "aria-current": screen === name ? "page" : false }, text);
  replace(navigation, link("list", "#/", "Executions"), link("replicas", "#/replicas", service.is_operator ? "Replicas and usage" : "Usage"),
    h("span", { class: "meta" }, visible(service.tenant === "default" ? service.name : `${service.name} of ${service.tenant}`)));
}

function showReplicas(service) {
  const screen = new ReplicaScreen({ service, onproblem: say });
  document.title = "Replicas · runner-service";
  replace(place, screen.element);
  leave = () => screen.close();
}

function showList(service) {
  const abort = new AbortController(), approvals = h("section", { class: "approvals", "aria-label": "Waiting for your decision" });
  const list = new ExecutionList({ service, onproblem: say });
  const update = approvalList(approvals, { mayApprove: service.may_approve, service });
  document.title = "runner-service";
  replace(place, approvals, list.element);
  streamForever("WatchApprovals", () => ({}), abort.signal, (message) => { if (!message.keepalive) update(message.approvals); }, { onstate: say });
  leave = () => { abort.abort(); list.close(); };
}

function showMissing(text) {
  leave();
  say("");
  replace(place, h("div", { class: "empty" }, h("p", { role: "alert" }, visible(text)), h("p", {}, h("a", { href: "#/" }, "All executions"))));
}

function showExecution(id, tenant, service) {
  const abort = new AbortController(), run = new Run();
  const cancel = h("button", { type: "button", class: "danger", onclick: () => call("CancelExecution", { execution_id: id, reason: "on the page" }).catch((error) => say(error.message)) }, "Cancel");
  const view = new ExecutionView({ run, isLive: true, onproblem: say, actions: service.may_run ? [cancel] : [], loadEarlier: (item) => loadEarlier(id, item), loadChanges: () => loadChanges(id),
    revert: service.may_revert ? (request) => call("RevertChanges", { execution_id: id, ...request }) : null });
  const update = approvalList(view.approvals, { mayApprove: service.may_approve });
  document.title = `${id} · runner-service`;
  replace(place, h("h2", {}, visible(id), tenant ? h("span", { class: "tenant" }, ` of the tenant ${visible(tenant)}, for which you act: this is audited`) : null), view.element);
  const onstate = (text, code = "") => {
    say(text, code);
    if (code === "NOT_FOUND") showMissing(text);
  };
  const onmessage = (message) => {
    for (const event of message.events) run.apply(event);
    update(run.pending.map((item) => ({ execution_id: id, request: item.request })));
    if (run.finished) { cancel.hidden = true; document.title = `${id}: ${stateWord(run.finished.state)}`; }
    view.update();
  };
  streamForever("WatchExecution", () => ({ execution_id: id, after_sequence: run.lastSequence }), abort.signal, onmessage, { isOver: () => run.finished, onstate });
  leave = () => { abort.abort(); view.close(); };
}

/** Reads the output of a command that came before what is shown: 256 KiB of the stream that has more. */
async function loadEarlier(id, item) {
  if (item.isLoading) return;
  item.isLoading = true;
  try { await loadNext(id, item, earlierOf(item)); } finally { item.isLoading = false; }
}

async function loadNext(id, item, { screens, remaining }) {
  const stream = remaining.stdout >= remaining.stderr ? "stdout" : "stderr";
  const end = remaining[stream], offset = Math.max(0, end - EARLIER_BYTES);
  const { data = new Uint8Array() } = await call("ReadToolOutput", {
    execution_id: id, tool_call_id: item.call.tool_call_id, stream: `OUTPUT_STREAM_${stream.toUpperCase()}`, offset, max_bytes: end - offset,
  });
  const lineEnd = data.indexOf(10), from = offset && lineEnd >= 0 && lineEnd + 1 < data.length ? lineEnd + 1 : 0; // whole lines
  screens.unshift(screenOf(data.subarray(from), stream));
  remaining[stream] = data.length ? offset + from : 0;
  item.open = true;
  item.version++;
}

async function loadChanges(id) {
  const [{ changes, next_page_token: more }, { diff, truncated }] = await Promise.all([call("ListFileChanges", { execution_id: id, page_size: 500 }), call("GetDiff", { execution_id: id })]);
  return { changes, diff: `${diff ?? ""}${more || truncated ? "\n(there is more than is shown)" : ""}` };
}

begin();
