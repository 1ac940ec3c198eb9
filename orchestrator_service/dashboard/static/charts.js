// Charts of a series of moments: lines or bars, axes, the values under the pointer or the arrow keys, and words for all of it.

import { fill, h, s, say } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 150;
const LEAST_LEFT = 34;
const BOTTOM = 20;
const TOP = 8;

function niceTop(most) {
  if (!(most > 0)) return 1;
  const scale = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * scale).find((top) => top >= most);
}

const DURATIONS = [1, 2, 4, 10, 20, 30, 60, 120, 240, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400];

/** Return the top of an axis of seconds, so that half of it reads well, too. */
export const topDuration = (most) => (most > 1 ? DURATIONS.find((top) => top >= most) ?? niceTop(most) : niceTop(most));

const ruler = document.createElement("canvas").getContext("2d");

/** Return how wide words are on an axis, in pixels. */
function widthOf(words) {
  return ruler.measureText(words).width;
}

/** A chart that is given other values again and again. */
export class Chart {
  /**
   * title: what it shows; series: [{label, key, kind: "line"|"area"|"bar", color: 0..2}];
   * show: how a value reads; axis: how it reads where there is little room; headline: what of the values is said large;
   * nice: the top of the axis for the largest value.
   */
  constructor({ title, series, show, headline, whole = false, axis = show, nice = niceTop }) {
    Object.assign(this, { title, series, show, headline, whole, axis, nice });
    this.data = null;
    this.at = null;
    this.value = h("span", { class: "chart-value" });
    this.readout = h("div", { class: "readout", "aria-live": "polite" });
    this.svg = s("svg", { role: "img", tabindex: "0", "aria-label": `${title}: loading` });
    this.element = h(
      "section", { class: "card chart" },
      h("div", { class: "apart" }, h("h3", { class: "soft" }, title), this.value), this.svg, this.readout,
    );
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  set(data) {
    this.data = data;
    this.draw();
  }

  values(one) {
    return this.data[one.key] ?? [];
  }

  draw() {
    const width = this.svg.clientWidth;
    if (this.data === null || width < 60) return;
    const times = this.data.times.map((at) => new Date(at).getTime());
    const known = this.series.flatMap((one) => this.values(one)).filter((value) => value !== null && value !== undefined);
    let top = this.nice(Math.max(0, ...known));
    if (this.whole) top = Math.max(2, 2 * Math.ceil(top / 2));
    const labels = [0, 0.5, 1].map((share) => this.axis(top * share));
    ruler.font = `11px ${getComputedStyle(this.svg).fontFamily}`;
    const left = Math.ceil(Math.max(LEAST_LEFT, ...labels.map(widthOf).map((wide) => wide + 10)));
    const step = (this.data.step_seconds ?? 60) * 1000;
    const first = times[0] ?? 0;
    const last = (times.at(-1) ?? 0) + step;
    this.x = (at) => left + ((at + step / 2 - first) / Math.max(1, last - first)) * (width - left - 4);
    this.y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.times = times;
    const spanSeconds = (last - first) / 1000;
    const parts = [];
    for (const [at, label] of labels.entries()) {
      const y = this.y((top * at) / 2);
      parts.push(s("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }));
      parts.push(s("text", { class: "axis", x: left - 6, y: y + 4, "text-anchor": "end" }, label));
    }
    const marks = Math.max(2, Math.min(6, Math.floor(width / 90)));
    for (let at = 0; at < marks && times.length; at += 1) {
      const index = Math.round((at * (times.length - 1)) / (marks - 1));
      const anchor = at === 0 ? "start" : at === marks - 1 ? "end" : "middle";
      parts.push(s("text", { class: "axis", x: this.x(times[index]), y: HEIGHT - 4, "text-anchor": anchor }, format.tick(times[index], spanSeconds)));
    }
    const stacked = new Array(times.length).fill(0);
    for (const one of this.series) {
      if (one.kind === "bar") parts.push(...this.bars(one, stacked, width, left));
      else parts.push(...this.lines(one));
    }
    this.marker = s("g", {});
    parts.push(this.marker);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts);
    const headline = this.headline(this.data);
    say(this.value, headline);
    this.svg.setAttribute("aria-label", `${this.title}: ${headline}. ${this.words()} Arrow keys read single values.`);
    this.choose(this.at);
  }

  lines(one) {
    const pieces = [];
    let run = [];
    this.values(one).forEach((value, index) => {
      if (value === null || value === undefined) {
        if (run.length) pieces.push(run);
        run = [];
      } else run.push([this.x(this.times[index]), this.y(value)]);
    });
    if (run.length) pieces.push(run);
    return pieces.flatMap((points) => {
      const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
      const made = [];
      if (one.kind === "area") {
        const floor = this.y(0).toFixed(1);
        made.push(s("path", { class: `area c${one.color}`, d: `M${points[0][0].toFixed(1)},${floor}L${line}L${points.at(-1)[0].toFixed(1)},${floor}Z` }));
      }
      if (points.length === 1) made.push(s("circle", { class: `point c${one.color}`, cx: points[0][0], cy: points[0][1], r: 2 }));
      made.push(s("path", { class: `series c${one.color}`, d: `M${line}` }));
      return made;
    });
  }

  bars(one, stacked, width, left) {
    const slot = (width - left) / Math.max(1, this.times.length);
    const thick = Math.max(1, Math.min(18, slot * 0.72));
    return this.values(one).flatMap((value, index) => {
      if (!value) return [];
      const from = stacked[index];
      stacked[index] += value;
      const y = this.y(from + value);
      return [s("rect", { class: `bar c${one.color}`, x: this.x(this.times[index]) - thick / 2, y, width: thick, height: Math.max(1, this.y(from) - y), rx: Math.min(2, thick / 3) })];
    });
  }

  words() {
    return this.series.map((one) => {
      const known = this.values(one).filter((value) => value !== null && value !== undefined);
      return known.length ? `${one.label}: most ${this.show(Math.max(...known))}, last ${this.show(known.at(-1))}.` : `${one.label}: nothing yet.`;
    }).join(" ");
  }

  point(event) {
    if (!this.times?.length) return;
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    let best = 0;
    this.times.forEach((at, index) => {
      if (Math.abs(this.x(at) - x) < Math.abs(this.x(this.times[best]) - x)) best = index;
    });
    this.choose(best);
  }

  key(event) {
    if (!this.times?.length || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const end = this.times.length - 1;
    const from = this.at ?? end + (event.key === "ArrowLeft" ? 1 : 0);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: end }[event.key];
    this.choose(Math.max(0, Math.min(end, to)));
  }

  choose(index) {
    this.at = index;
    if (this.data === null || !this.marker) return;
    if (index === null || index >= this.times.length) {
      this.marker.replaceChildren();
      fill(this.readout, this.series.length > 1 ? this.series.map((one) => h("span", { class: `key c${one.color}` }, one.label)) : "");
      return;
    }
    const x = this.x(this.times[index]);
    const points = this.series.filter((one) => one.kind !== "bar").flatMap((one) => {
      const value = this.values(one)[index];
      return value === null || value === undefined ? [] : [s("circle", { class: `point c${one.color}`, cx: x, cy: this.y(value), r: 3 })];
    });
    this.marker.replaceChildren(s("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), ...points);
    fill(
      this.readout, h("span", {}, format.when(this.times[index])),
      this.series.map((one) => h("span", { class: `key c${one.color}` }, `${one.label} ${this.show(this.values(one)[index] ?? null)}`)),
    );
  }
}
