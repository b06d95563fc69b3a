// A list of rows of equal height, of which only those in sight exist.

import { eachFrame, h } from "./dom.js";

export const ROW_PIXELS = 20;
const OVERSCAN = 8;

export class Rows {
  /**
   * `count()` is the number of rows, `row(index)` makes the element of one. `identity(index)` is an object that is
   * another one whenever the row looks different; null for a row that is to be made anew each time.
   */
  constructor({ label, count, row, identity = () => null, role = "log", onscroll = () => {} }) {
    this._count = count;
    this._row = row;
    this._identity = identity;
    this._made = new Map(); // the elements in sight, by identity
    this.follow = false;
    this._body = h("div", { class: "rows-body", role: "presentation" });
    this._space = h("div", { class: "rows-space", role: "presentation" }, this._body);
    this.element = h("div", { class: "rows", tabindex: "0", role, "aria-label": label, "aria-live": role === "log" ? "off" : false }, this._space);
    this._draw = eachFrame(() => this.draw());
    this.element.addEventListener("scroll", () => {
      const atEnd = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - ROW_PIXELS;
      if (this.element.scrollTop !== this._ownScroll) this.follow = this.follows && atEnd;
      onscroll(this);
      this._draw();
    });
    this.element.addEventListener("keydown", (event) => this._onKey(event));
    this.follows = false;
    new ResizeObserver(() => this._draw()).observe(this.element);
  }

  /** Draws in the next frame. */
  update() {
    this._draw();
  }

  jump(index) {
    this.follow = false;
    this.element.scrollTop = Math.max(0, index * ROW_PIXELS - ROW_PIXELS * 2);
  }

  jumpToEnd() {
    this.follow = this.follows;
    this._scrollToEnd();
    this._draw();
  }

  _scrollToEnd() {
    this.element.scrollTop = this.element.scrollHeight;
    this._ownScroll = this.element.scrollTop; // what it is otherwise, the user has made it
  }

  draw() {
    const total = this._count(), height = `${total * ROW_PIXELS}px`;
    if (this._space.style.height !== height) this._space.style.height = height;
    if (this.follow && (this._ownScroll === undefined || this.element.scrollTop === this._ownScroll)) this._scrollToEnd();
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_PIXELS) - OVERSCAN);
    const last = Math.min(total, Math.ceil((this.element.scrollTop + this.element.clientHeight) / ROW_PIXELS) + OVERSCAN);
    this._place(first, last);
    const move = `translateY(${first * ROW_PIXELS}px)`;
    if (this._body.style.transform !== move) this._body.style.transform = move;
  }

  /** Shows the rows from `first` to before `last`; those that were there stay, and with them the focus. */
  _place(first, last) {
    const made = new Map(), rows = [];
    for (let index = first; index < last; index++) {
      const identity = this._identity(index), row = (identity && this._made.get(identity)) ?? this._row(index);
      if (identity) made.set(identity, row);
      rows.push(row);
    }
    this._made = made;
    const kept = new Set(rows), focused = this._body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    for (const row of [...this._body.children]) if (!kept.has(row)) row.remove();
    let next = this._body.firstChild;
    for (const row of rows) {
      if (row === next) next = next.nextSibling; else this._body.insertBefore(row, next);
    }
    if (focused && !this._body.contains(document.activeElement)) this._find(focused)?.focus({ preventScroll: true });
  }

  _find(key) {
    return this._body.querySelector(`[data-key="${CSS.escape(key)}"]`);
  }

  /** Moves the focus to the row above or below by the arrows, where rows can have it. */
  _onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    const able = [...this._body.querySelectorAll("a[data-key]")], at = able.indexOf(document.activeElement);
    if (!able.length) return;
    event.preventDefault();
    const top = this.element.getBoundingClientRect().top;
    const target = at < 0 ? able.find((each) => each.getBoundingClientRect().top >= top) ?? able[0] : able[at + step];
    if (!target) return;
    target.focus({ preventScroll: true });
    target.closest(".row").scrollIntoView({ block: "nearest" });
    this.draw();
  }
}
