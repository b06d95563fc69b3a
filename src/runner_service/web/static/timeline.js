// Draws the spans of an execution to scale: a lane for the main agent and one for each sub-agent.

import { h, replace, svg } from "./dom.js";
import { duration } from "./words.js";
import { visible } from "./ansi.js";

const WIDTH = 1000;
const LANE = 14;
const MAX_LANES = 30;
const MIN_WIDTH = 1.5;

/** Returns an element and `draw(run, now)`; `onselect` is called with the item of a span. */
export function timeline(onselect) {
  const element = h("div", { class: "timeline", role: "group", "aria-label": "Timeline" });

  function draw(run, now) {
    if (!run.firstAt) return;
    const end = run.finished ? run.lastAt : Math.max(now, run.lastAt), start = run.firstAt;
    const scale = WIDTH / Math.max(0.001, end - start);
    const lanes = [...new Set(["main", ...run.spans.map((span) => span.lane)])].slice(0, MAX_LANES);
    replace(element, ...lanes.map((lane) => {
      const spans = run.spans.filter((span) => span.lane === lane);
      const name = lane === "main" ? "agent" : spans.find((span) => span.kind === "agent")?.title ?? "sub-agent";
      return h("div", { class: "lane" }, h("span", { class: "lane-name" }, visible(name)), bars(spans, start, end, scale));
    }), h("div", { class: "lane scale" }, h("span", { class: "lane-name" }, "0"), h("span", {}, duration(end - start))));
  }

  function bars(spans, start, end, scale) {
    const shapes = [];
    let before = null;
    for (const span of spans) {
      const x = (span.start - start) * scale, width = Math.max(MIN_WIDTH, ((span.end ?? end) - span.start) * scale);
      // Spans that fall on the same pixel are one.
      if (before && before.kind === span.kind && x + width <= before.x + before.width + 0.5) continue;
      before = { kind: span.kind, x, width };
      const label = `${visible(span.title)}, ${duration((span.end ?? end) - span.start)}`;
      const select = () => span.item && onselect(span.item);
      shapes.push(svg("rect", {
        x, width, y: span.kind === "agent" ? 1 : 3, height: span.kind === "agent" ? LANE - 2 : LANE - 6, class: `span-${span.kind}`,
        tabindex: span.item ? "0" : false, role: "button", "aria-label": label, onclick: select,
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(); } },
      }, svg("title", {}, label)));
    }
    return svg("svg", { viewBox: `0 0 ${WIDTH} ${LANE}`, preserveAspectRatio: "none", class: "bars" }, ...shapes);
  }

  return { element, draw };
}
