// A list of rows of equal height, of which only those in sight exist.

import { eachFrame, h } from "./dom.js";

export const ROW_PIXELS = 20;
const OVERSCAN = 8;

export class Rows {
  /** `count()` is the number of rows, `row(index)` makes the element of one. */
  constructor({ label, count, row, role = "log", onscroll = () => {} }) {
    this._count = count;
    this._row = row;
    this.follow = false;
    this._body = h("div", { class: "rows-body" });
    this._space = h("div", { class: "rows-space" }, this._body);
    this.element = h("div", { class: "rows", tabindex: "0", role, "aria-label": label }, this._space);
    this._draw = eachFrame(() => this.draw());
    this.element.addEventListener("scroll", () => {
      const atEnd = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - ROW_PIXELS;
      if (this.element.scrollTop !== this._ownScroll) this.follow = this.follows && atEnd;
      onscroll(this);
      this._draw();
    });
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
    const total = this._count();
    this._space.style.height = `${total * ROW_PIXELS}px`;
    if (this.follow && (this._ownScroll === undefined || this.element.scrollTop === this._ownScroll)) this._scrollToEnd();
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_PIXELS) - OVERSCAN);
    const last = Math.min(total, Math.ceil((this.element.scrollTop + this.element.clientHeight) / ROW_PIXELS) + OVERSCAN);
    const rows = [];
    for (let index = first; index < last; index++) rows.push(this._row(index));
    const focused = this._body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this._body.replaceChildren(...rows);
    this._body.style.transform = `translateY(${first * ROW_PIXELS}px)`;
    if (focused) this._body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}
