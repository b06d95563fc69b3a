// One execution, folded from its events: what was said and called, the plan, the steps, and the spans of the timeline.

import { Screen } from "./ansi.js";

export class Run {
  constructor() {
    this.items = []; // in order of appearance
    this.lastSequence = 0;
    this.started = null;
    this.finished = null;
    this.plan = [];
    this.planVersion = 0;
    this.steps = []; // {at, usage, cost}: totals after each model call
    this.spans = []; // {lane, kind, start, end, title, item}; end is null while it goes on
    this.changes = new Map(); // the newest change of each file, by path
    this.version = 0;
    this.firstAt = 0;
    this.lastAt = 0;
    this._messages = new Map();
    this._calls = new Map();
    this._approvals = new Map();
    this._thinkingSince = new Map();
    this._waits = new Map();
  }

  /** Requests for approval without a decision. */
  get pending() {
    return [...this._approvals.values()].filter((item) => !item.decided && !this.finished);
  }

  /** Applies the next event; one that was applied before is ignored. */
  apply(event) {
    if (event.sequence <= this.lastSequence) return;
    this.lastSequence = event.sequence;
    this.version++;
    const at = event.create_time ?? 0, agent = event.sub_agent_id ?? "";
    this.firstAt ||= at;
    this.lastAt = Math.max(this.lastAt, at);
    for (const [kind, apply] of HANDLERS) {
      if (event[kind] !== undefined) {
        apply(this, event[kind], at, agent);
        return;
      }
    }
  }

  add(kind, at, agent, fields) {
    const item = { kind, at, agent, index: this.items.length, version: 0, ...fields };
    this.items.push(item);
    return item;
  }

  span(lane, kind, start, end, title, item) {
    const span = { lane, kind, start, end, title, item };
    this.spans.push(span);
    return span;
  }
}

function onStarted(run, started, at) {
  if (!run.started && at - run.firstAt > 0.05) run.span("main", "queue", run.firstAt, at, "in the queue", null);
  run.started = started;
  for (const span of run.spans) span.end ??= at; // an earlier process left them
  run._waits.clear();
  run.add("started", at, "", { started });
  run._thinkingSince.set("", at);
}

function message(run, kind, id, at, agent) {
  const key = `${kind} ${id}`;
  let item = run._messages.get(key);
  if (!item) {
    item = run.add(kind, at, agent, { id, text: "", done: false });
    run._messages.set(key, item);
  }
  item.version++;
  return item;
}

function onDelta(kind) {
  return (run, delta, at, agent) => {
    message(run, kind, delta.message_id, at, agent).text += delta.text;
  };
}

function onMessageFinished(run, finished, at, agent) {
  const item = run._messages.get(`text ${finished.message_id}`) ?? run._messages.get(`reasoning ${finished.message_id}`);
  if (item) { item.done = true; item.version++; }
  const start = run._thinkingSince.get(agent) ?? item?.at ?? at;
  run.span(agent || "main", "model", start, at, "model call", item ?? null);
  run._thinkingSince.set(agent, at);
}

function onMessageDiscarded(run, discarded) {
  for (const kind of ["text", "reasoning"]) {
    const item = run._messages.get(`${kind} ${discarded.message_id}`);
    if (item) { item.discarded = true; item.version++; }
  }
}

function onCallStarted(run, call, at, agent) {
  const item = run.add("call", at, agent, { call, finished: null, screen: new Screen(), open: null, bytes: { stdout: 0, stderr: 0 } });
  run._calls.set(call.tool_call_id, item);
  item.span = run.span(call.kind === "TOOL_KIND_SUB_AGENT" ? call.tool_call_id : agent || "main",
    call.kind === "TOOL_KIND_SUB_AGENT" ? "agent" : "tool", at, null, call.name, item);
}

function onOutput(run, output) {
  const item = run._calls.get(output.tool_call_id);
  if (!item) return;
  const stream = output.stderr ? "stderr" : "stdout", bytes = output[stream];
  item.bytes[stream] += bytes.length;
  item.screen.write(bytes, stream);
  item.version++;
}

function onCallFinished(run, finished, at, agent) {
  const item = run._calls.get(finished.tool_call_id);
  if (!item) return;
  item.finished = finished;
  item.version++;
  item.span.end = at;
  run._thinkingSince.set(agent, at);
}

function onApprovalRequested(run, request, at, agent) {
  const item = run.add("approval", at, agent, { request, decided: null });
  run._approvals.set(request.tool_call_id, item);
  run._waits.set(request.tool_call_id, run.span(agent || "main", "wait", at, null, "waits for approval", item));
}

function onApprovalDecided(run, decided, at) {
  const item = run._approvals.get(decided.tool_call_id), wait = run._waits.get(decided.tool_call_id);
  if (item) { item.decided = decided; item.version++; }
  if (wait) wait.end = at;
  if (item) run._thinkingSince.set(item.agent, at);
}

function onFinished(run, finished, at) {
  run.finished = finished;
  for (const span of run.spans) span.end ??= at;
  run.add("finished", at, "", { finished });
}

const HANDLERS = [
  ["text_delta", onDelta("text")],
  ["reasoning_delta", onDelta("reasoning")],
  ["tool_output", onOutput],
  ["message_finished", onMessageFinished],
  ["message_discarded", onMessageDiscarded],
  ["tool_call_started", onCallStarted],
  ["tool_call_finished", onCallFinished],
  ["started", onStarted],
  ["finished", onFinished],
  ["notice", (run, notice, at, agent) => run.add("notice", at, agent, { notice })],
  ["usage_updated", (run, updated, at) => run.steps.push({ at, usage: updated.usage ?? {}, cost: updated.cost })],
  ["todos_updated", (run, updated) => { run.plan = updated.todos ?? []; run.planVersion++; }],
  ["sub_agent_started", (run, started, at) => {
    const item = run._calls.get(started.tool_call_id);
    if (item) { item.subAgent = started; item.version++; item.span.title = started.name; }
    run._thinkingSince.set(started.tool_call_id, at);
  }],
  ["sub_agent_finished", () => {}],
  ["approval_requested", onApprovalRequested],
  ["approval_decided", onApprovalDecided],
  ["network_denied", (run, denied, at, agent) => run.add("denied", at, agent, { denied })],
  ["files_changed", (run, changed, at, agent) => {
    for (const change of changed.changes) run.changes.set(change.path ?? "", change);
    run.add("files", at, agent, { changed });
  }],
];
