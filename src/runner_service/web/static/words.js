// Values in words, the same on every screen.

export function stateWord(state) {
  return (state ?? "").replace("STATE_", "").replaceAll("_", " ").toLowerCase() || "unknown";
}

export function stateClass(state) {
  return stateWord(state).replaceAll(" ", "-");
}

export function enumWord(value) {
  return String(value ?? "").replace(/^(TOOL_OUTCOME|APPROVAL_ACTION|APPROVAL_SOURCE|FILE_CHANGE_KIND)_/, "").replaceAll("_", " ").toLowerCase();
}

export function duration(seconds) {
  if (!(seconds >= 0)) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

export function time(seconds) {
  if (!seconds) return "";
  const at = new Date(seconds * 1000), two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function bytes(number) {
  if (number < 1000) return `${number} B`;
  return number < 1e6 ? `${(number / 1e3).toFixed(1)} kB` : `${(number / 1e6).toFixed(1)} MB`;
}

export function count(number, noun) {
  return `${(number ?? 0).toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

export function tokens(usage) {
  if (!usage) return "";
  const cached = usage.cached_tokens ? ` (${usage.cached_tokens.toLocaleString("en")} cached)` : "";
  return `${(usage.input_tokens ?? 0).toLocaleString("en")} in${cached}, ${(usage.output_tokens ?? 0).toLocaleString("en")} out`;
}

export function cost(value) {
  if (!value) return "";
  const unknown = value.unpriced_model_calls ? ` + ${count(value.unpriced_model_calls, "model call")} without a price` : "";
  return `${((value.nanos ?? 0) / 1e9).toFixed(4)} ${value.currency ?? ""}${unknown}`;
}

/** What happened to a file. */
export function changeWords(change) {
  const word = String(change.kind ?? "").replace("KIND_", "").toLowerCase();
  const lines = change.lines_added || change.lines_removed ? ` (+${change.lines_added ?? 0} −${change.lines_removed ?? 0})` : "";
  return `${word} ${change.old_path ? `${change.old_path} → ` : ""}${change.path ?? ""}${lines}`;
}

/** The title of a call: `$ command`, or the tool with its arguments. */
export function callTitle(name, args) {
  if (name === "execute" && typeof args?.command === "string") return `$ ${args.command}`;
  const shown = Object.entries(args ?? {}).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [name ?? "", ...shown].join(" ");
}

/** What a rule that may be granted allows. */
export function ruleWords(rule) {
  if (rule.command) return `commands that begin with ${(rule.command.words ?? []).join(" ")}`;
  if (rule.path) return `changes of ${rule.path}`;
  if (rule.mcp) return `${rule.mcp.tool || "every tool"} of ${rule.mcp.server}`;
  return `the tool ${rule.tool ?? ""}`;
}
