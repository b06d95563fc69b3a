// Lays an item of an execution out in rows of equal height, so that only those in sight have to exist.
// A row is `{className, runs, fold}`; a run is `{text, style}`. `fold` opens or closes the item.

import { Screen, visible } from "./ansi.js";
import { bytes, callTitle, changeWords, cost, count, duration, enumWord, stateWord, tokens } from "./words.js";

const FOLDED_LINES = 12;

/** Returns the rows of an item, kept until it changes. */
export function rowsOf(item, columns) {
  const version = item.version + (item.screen?.version ?? 0);
  if (item.rowsVersion !== version || item.rowsColumns !== columns) {
    item.rowsVersion = version;
    item.rowsColumns = columns;
    item.rows = (LAYOUTS[item.kind] ?? unknown)(item, columns);
    for (const row of item.rows) row.depth = item.agent ? 1 : 0;
  }
  return item.rows;
}

const LAYOUTS = {
  started: ({ started }, columns) => text("meta",
    `${started.resumed ? "resumed" : "started"}: ${started.model?.provider}/${started.model?.name} in ${started.sandbox?.root} (${started.mode})`, columns),
  finished: ({ finished }, columns) => [
    ...text(finished.state === "STATE_SUCCEEDED" ? "good" : "bad",
      [`${stateWord(finished.state)} in ${duration(finished.elapsed ?? 0)}`, `${tokens(finished.usage)} tokens`, cost(finished.cost)].filter(Boolean).join("; "), columns),
    ...(finished.error ? text("bad", `${finished.error.code}: ${finished.error.message}`, columns) : []),
  ],
  text: (item, columns) => growing(item, item.discarded ? "discarded" : "say", columns),
  reasoning: (item, columns) => foldable(item, "reasoning", item.text, columns),
  notice: ({ notice }, columns) => text(notice.level === "LEVEL_WARNING" ? "warn" : "meta", `${notice.code}: ${notice.text}`, columns),
  denied: ({ denied }, columns) => text("warn", `network denied: ${denied.host}:${denied.port ?? 0}, ${denied.reason}`, columns),
  files: ({ changed }, columns) => text("meta", [
    ...changed.changes.map(changeWords), ...(changed.omitted ? [`${count(changed.omitted, "more change")}`] : []),
  ].join("\n"), columns),
  approval: approvalRows,
  call: callRows,
};

function unknown(item, columns) {
  return text("meta", item.kind, columns);
}

function approvalRows({ request, decided }, columns) {
  const rows = text("ask", `waits for approval: ${callTitle(request.name, request.arguments)}`, columns);
  if (request.reason) rows.push(...text("meta", `because: ${request.reason}`, columns));
  if (request.diff) rows.push(...diffRows(request.diff, columns));
  if (decided) {
    const who = decided.decided_by ? ` by ${decided.decided_by}` : "", why = decided.comment ? `: ${decided.comment}` : "";
    rows.push(...text("ask", `${enumWord(decided.action)}${who}${why}`, columns));
  }
  return rows;
}

function callRows(item, columns) {
  const { call, finished, subAgent } = item;
  const title = subAgent ? `sub-agent ${subAgent.name}: ${subAgent.description}` : callTitle(call.name, call.arguments);
  const rows = text("call", title, columns);
  const output = outputRows(item, columns);
  const shown = item.open || output.length <= FOLDED_LINES ? output : output.slice(-FOLDED_LINES);
  if (output.length > FOLDED_LINES) {
    const hidden = output.length - FOLDED_LINES;
    rows.push({ className: "fold", runs: [{ text: item.open ? "▾ show less" : `▸ ${count(hidden, "more line")} above`, style: "" }], fold: item });
  }
  for (const row of shown) rows.push(row);
  if (finished) rows.push(...text(finished.outcome === "TOOL_OUTCOME_SUCCEEDED" ? "end" : "end bad", endOf(finished), columns));
  return rows;
}

/** What was read of the output before what the screen holds: `screens`, and how many bytes of each stream remain. */
export function earlierOf(item) {
  const { before } = item.screen;
  if (item.earlier?.before !== before) item.earlier = { before, screens: [], remaining: { ...before } }; // more was dropped
  return item.earlier;
}

function outputRows(item, columns) {
  const rows = [], { screens, remaining } = earlierOf(item), left = remaining.stdout + remaining.stderr;
  if (left && item.onEarlier) {
    rows.push({ className: "fold", runs: [{ text: `▸ load the output before this, ${bytes(left)}`, style: "" }], load: item });
  } else if (left) rows.push(...text("meta", `${bytes(left)} before this are not shown`, columns));
  for (const screen of [...screens, item.screen]) for (const row of screenRows(screen, columns)) rows.push(row);
  if (!item.screen.lineCount && item.finished?.result && item.call.kind !== "TOOL_KIND_SUB_AGENT") {
    rows.push(...text("out", item.finished.result, columns));
  }
  return rows;
}

function screenRows(screen, columns) {
  const rows = [];
  for (let index = 0; index < screen.lineCount; index++) for (const row of wrapped(screen.line(index), columns)) rows.push(row);
  return rows;
}

const wrappedLines = new WeakMap();

function wrapped(runs, columns) {
  let known = wrappedLines.get(runs);
  if (known?.columns !== columns) wrappedLines.set(runs, (known = { columns, rows: wrapRuns(runs, columns) }));
  return known.rows;
}

function wrapRuns(runs, columns) {
  const rows = [];
  let current = [], used = 0;
  for (const run of runs) {
    const characters = [...run.text];
    while (characters.length) {
      const piece = characters.splice(0, columns - used);
      current.push({ text: piece.join(""), style: run.style });
      used += piece.length;
      if (used >= columns) { rows.push({ className: "out", runs: current }); current = []; used = 0; }
    }
  }
  if (current.length || !rows.length) rows.push({ className: "out", runs: current });
  return rows;
}

function endOf(finished) {
  const code = finished.exit_code, parts = [];
  parts.push(code !== undefined ? `exit ${code}` : enumWord(finished.outcome));
  if (code !== undefined && !["TOOL_OUTCOME_SUCCEEDED", "TOOL_OUTCOME_FAILED"].includes(finished.outcome)) parts.push(enumWord(finished.outcome));
  parts.push(duration(finished.elapsed ?? 0));
  if (finished.dropped_bytes) parts.push(`${count(finished.dropped_bytes, "byte")} dropped`);
  if (finished.killed_processes?.length) parts.push(`ended with it: ${finished.killed_processes.join(", ")}`);
  return parts.join("; ");
}

function foldable(item, className, whole, columns) {
  const rows = text(className, whole, columns);
  if (rows.length <= FOLDED_LINES) return rows;
  const fold = { className: "fold", runs: [{ text: item.open ? "▾ show less" : `▸ ${count(rows.length - FOLDED_LINES, "more line")}`, style: "" }], fold: item };
  return item.open ? [...rows, fold] : [...rows.slice(0, FOLDED_LINES), fold];
}

export function diffRows(diff, columns) {
  const classes = { "+": "add", "-": "del", "@": "hunk" };
  // A line of a file that begins with two more of these comes after a hunk's head; the names of files come before it.
  let isHead = true;
  const classOf = (line) => {
    if (line.startsWith("diff ")) isHead = true;
    if (line.startsWith("@@")) isHead = false;
    return isHead && /^(---|\+\+\+) /.test(line) ? "name" : classes[line[0]] ?? "";
  };
  return diff.split("\n").map((line) => [line, classOf(line)]).flatMap(([line, name]) => wrapText(line, columns).map((part) => ({ className: `diff ${name}`, runs: [{ text: part, style: "" }] })));
}

/** Lays out text that grows at its end; complete lines are laid out once. */
function growing(item, className, columns) {
  if (item.cache?.columns !== columns || item.cache.className !== className) item.cache = { columns, className, position: 0, rows: [] };
  const { cache } = item, end = item.text.lastIndexOf("\n");
  if (end >= cache.position) {
    for (const row of text(className, item.text.slice(cache.position, end), columns)) cache.rows.push(row);
    cache.position = end + 1;
  }
  return cache.rows.concat(text(className, item.text.slice(cache.position), columns));
}

function text(className, whole, columns) {
  return whole.split("\n").flatMap((line) => wrapText(line, columns).map((part) => ({ className, runs: [{ text: part, style: "" }] })));
}

/** Breaks a line between words where possible. */
export function wrapText(line, columns) {
  let rest = [...visible(line)];
  const lines = [];
  while (rest.length > columns) {
    let cut = rest.lastIndexOf(" ", columns);
    if (cut < columns / 2) cut = columns;
    lines.push(rest.slice(0, cut).join(""));
    rest = rest.slice(rest[cut] === " " ? cut + 1 : cut);
  }
  lines.push(rest.join(""));
  return lines;
}

/** Makes the screen of output that was read by range. */
export function screenOf(data, stream) {
  const screen = new Screen();
  screen.write(data, stream);
  return screen;
}
