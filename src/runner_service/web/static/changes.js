// What an execution changed in files, as a list and a diff; and putting it back, which is shown before it is done.

import { visible } from "./ansi.js";
import { h, replace } from "./dom.js";
import { diffRows } from "./layout.js";
import { changeWords, count } from "./words.js";

const MAX_DIFF_ROWS = 5000;
const DIFF_COLUMNS = 400;

/** The element of a diff, cut to a number of rows. */
export function diffElement(diff, { columns = DIFF_COLUMNS, rows = MAX_DIFF_ROWS } = {}) {
  return h("pre", { class: "whole-diff", tabindex: "0", "aria-label": "Diff" }, ...diffRows(diff, columns).slice(0, rows).map((row) => h("div", { class: row.className }, row.runs[0].text)));
}

/**
 * `load()` returns `{changes, diff}` as they are now, `revert(request)` puts back; both are null in a file, which has
 * what the events say. `revert` is null for who may not.
 */
export class ChangesPanel {
  constructor(element, { run, load = null, revert = null }) {
    this._run = run;
    this._load = load;
    this._revert = revert;
    this._content = h("div", {});
    this._undo = h("section", { class: "undo", "aria-label": "Undo" });
    element.append(this._undo, this._content);
    this._drawUndo();
  }

  /** Draws again if something has changed. */
  async draw() {
    if (this._drawn === this._run.lastSequence) return;
    const drawing = (this._drawn = this._run.lastSequence);
    let changes = [...this._run.changes.values()], diffs = [];
    if (this._load) {
      try {
        const now = await this._load();
        if (this._drawn !== drawing) return; // a later answer is newer, and may have come before
        changes = now.changes;
        diffs = now.diff ? [now.diff] : [];
      } catch (error) {
        if (this._drawn !== drawing) return;
        this._drawn = null; // the next look tries again
        return replace(this._content, h("p", { class: "error" }, `The changes cannot be read: ${visible(error.message)}`));
      }
    } else diffs = this._run.items.filter((item) => item.kind === "approval" && item.request.diff).map((item) => item.request.diff);
    this._undo.hidden = !this._revert || (!changes.length && !this._undo.contains(document.activeElement) && !this._hasReverted);
    return replace(this._content, changes.length ? this._list(changes) : h("p", { class: "meta" }, "No files were changed."), ...diffs.map((diff) => diffElement(diff)));
  }

  _list(changes) {
    return h("ul", { class: "changes" }, ...changes.map((each) => h("li", {}, visible(changeWords(each)))));
  }

  _drawUndo(message = null) {
    replace(this._undo, message,
      h("div", { class: "buttons" }, this._button("Undo these changes…", () => this._ask({})), this._hasReverted ? this._button("Take the undo back…", () => this._ask({ undo_revert: true })) : null));
  }

  _button(text, onclick, className = "") {
    return h("button", { type: "button", class: className, onclick }, text);
  }

  /** Shows what would be put back, and asks. */
  async _ask(request) {
    await this._try(async () => {
      const { reverted, conflicts } = await this._revert({ ...request, dry_run: true });
      const confirm = this._button(`${request.undo_revert ? "Restore" : "Put back"} ${count(reverted.length, "file")}`,
        () => this._carryOut({ ...request, skip_conflicts: conflicts.length > 0 }), "danger");
      replace(this._undo,
        reverted.length ? [h("p", {}, "This would be done:"), this._list(reverted)] : h("p", {}, "There is nothing that can be put back."),
        this._conflicts(conflicts, "These would be left as they are:"),
        h("div", { class: "buttons" }, reverted.length ? confirm : null, this._button("Leave everything as it is", () => this._drawUndo())));
      this._undo.querySelector("button").focus();
    });
  }

  async _carryOut(request) {
    await this._try(async () => {
      const { reverted, conflicts } = await this._revert(request);
      this._hasReverted = true;
      this._drawUndo([h("p", { class: "good", role: "status" }, `${count(reverted.length, "file")} ${request.undo_revert ? "restored" : "put back"}.`), this._conflicts(conflicts, "These were left as they are:")]);
      this._drawn = -1;
      await this.draw();
    });
  }

  _conflicts(conflicts, title) {
    return conflicts.length ? [h("p", { class: "warn" }, title), h("ul", { class: "changes" }, ...conflicts.map(({ path, reason }) => h("li", {}, visible(`${path}: ${reason}`))))] : null;
  }

  async _try(action) {
    try { await action(); } catch (error) { this._drawUndo(h("p", { class: "error", role: "alert" }, visible(error.message))); }
  }
}
