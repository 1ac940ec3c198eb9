// A list of any length: only the rows that can be seen are elements, and those are used again while it scrolls.

import { h } from "./dom.js";

const BEYOND = 8;
/** Browsers stop drawing elements that are higher; a list that is longer than that is scrolled in proportion. */
const HIGHEST_PX = 12_000_000;

export class VirtualList {
  /**
   * label: for whom the list cannot be seen; make(): a row's element; show(element, item, index): put an item into it;
   * onRange(first, last): tells which rows are wanted.
   */
  constructor({ label, columns, make, show, onRange }) {
    Object.assign(this, { make, show, onRange });
    this.items = [];
    this.total = 0;
    this.rows = new Map();
    this.spare = [];
    this.body = h("div", { class: "list-body", role: "rowgroup" });
    this.element = h("div", { class: "list", role: "table", "aria-label": label, tabindex: "0", "aria-colcount": columns.length }, this.body);
    this.element.addEventListener("scroll", () => this.wish(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.observer = new ResizeObserver(() => this.measure());
    this.observer.observe(this.element);
    this.rowHeight = 46;
    this.asked = false;
  }

  measure() {
    const height = parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 46;
    if (height !== this.rowHeight) {
      this.rowHeight = height;
      for (const [, row] of this.rows) row.at = -1;
    }
    this.resize();
  }

  set(items, total) {
    this.items = items;
    this.total = total;
    this.resize();
  }

  resize() {
    this.body.style.height = `${Math.min(HIGHEST_PX, this.total * this.rowHeight)}px`;
    this.element.setAttribute("aria-rowcount", String(this.total));
    this.draw();
  }

  wish() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  toTop() {
    this.element.scrollTop = 0;
  }

  atTop() {
    return this.element.scrollTop < this.rowHeight;
  }

  draw() {
    const height = this.element.clientHeight || 600;
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.rowHeight) - BEYOND);
    const last = Math.min(this.total, first + Math.ceil(height / this.rowHeight) + 2 * BEYOND);
    for (const [index, row] of this.rows) {
      if (index < first || index >= last) {
        this.rows.delete(index);
        if (!row.element.contains(document.activeElement)) this.spare.push(row);
        else row.element.remove();
      }
    }
    for (let index = first; index < last; index += 1) {
      let row = this.rows.get(index);
      if (row === undefined) {
        row = this.spare.pop() ?? { element: this.make(), item: undefined, at: -1 };
        this.rows.set(index, row);
        if (row.element.parentNode === null) this.body.append(row.element);
      }
      if (row.at !== index) {
        row.at = index;
        row.element.style.transform = `translateY(${index * this.rowHeight}px)`;
        row.element.setAttribute("aria-rowindex", String(index + 1));
        row.element.hidden = false;
      }
      const item = this.items[index];
      if (row.item !== item || row.version !== item?.version) {
        row.item = item;
        row.version = item?.version;
        this.show(row.element, item, index);
      }
    }
    for (const row of this.spare) {
      row.element.hidden = true;
      row.at = -1;
    }
    this.onRange(first, last);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (step === undefined || event.target.closest("input, select, textarea")) return;
    const focused = [...this.rows].find(([, row]) => row.element.contains(document.activeElement));
    if (focused === undefined && event.target !== this.element) return;
    event.preventDefault();
    const from = focused === undefined ? Math.floor(this.element.scrollTop / this.rowHeight) - 1 : focused[0];
    this.focus(Math.max(0, Math.min(this.total - 1, from + step)));
  }

  focus(index) {
    const top = index * this.rowHeight;
    const view = this.element;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + this.rowHeight > view.scrollTop + view.clientHeight) view.scrollTop = top + this.rowHeight - view.clientHeight;
    this.draw();
    this.rows.get(index)?.element.querySelector("a")?.focus({ preventScroll: true });
  }

  stop() {
    this.observer.disconnect();
  }
}


