// What happens in the team: what happened before the page was opened, then what comes, each of it once.

import { get, query, segment } from "./api.js";
import { h, say } from "./dom.js";
import { details, kindOfEvent, words } from "./events.js";
import * as format from "./format.js";
import { live } from "./live.js";
import { gathered } from "./parts.js";

const MOST = 100;
const BEFORE = 50;

export class Feed {
  constructor() {
    this.list = h("ol", {});
    this.quiet = h("p", { class: "faint small" }, "Nothing has happened yet.");
    this.quiet.hidden = true;
    // What was before is no news: it is not read out.
    this.element = h("div", { class: "feed", tabindex: "0", role: "log", "aria-label": "What happens", "aria-busy": "true" }, this.quiet, this.list);
    this.seen = new Set();
    this.titles = new Map();
    this.unnamed = new Map();
    this.filled = false;
    this.stopped = false;
    this.nameSoon = gathered(() => this.name(), 300);
    // The history is asked for once the channel is open: what happens between the two would be lost otherwise.
    this.begin = () => {
      if (live.state === "open") this.fill();
    };
    live.addEventListener("state", this.begin);
    this.begin();
  }

  async fill() {
    if (this.filled || this.stopped) return;
    this.filled = true;
    try {
      const events = await get(`/events/latest${query({ limit: BEFORE })}`);
      if (this.stopped) return;
      for (const one of events) if (one.task_id && one.title) this.titles.set(one.task_id, one.title);
      // What the channel told meanwhile is newer than all that is new in the history.
      this.list.append(...events.filter((one) => this.isNew(one)).reverse().map((one) => this.row(one)));
      this.quiet.hidden = this.list.childElementCount > 0;
      this.element.removeAttribute("aria-busy");
    } catch {
      // What is live comes all the same; the next connection asks again.
      this.filled = false;
    }
  }

  isNew(event) {
    if (!event.id) return true;
    if (this.seen.has(event.id)) return false;
    this.seen.add(event.id);
    return true;
  }

  add(events) {
    for (const event of events) {
      if (event.event === "task_submitted" && event.data?.title) this.titles.set(event.task_id, event.data.title);
      if (this.isNew(event)) this.list.prepend(this.row(event));
    }
    while (this.list.childElementCount > MOST) this.list.lastChild.remove();
    this.quiet.hidden = this.list.childElementCount > 0;
  }

  /** Learn the titles of tasks that are shown anyway. */
  learn(tasks) {
    for (const task of tasks) if (task.title) this.titles.set(task.task_id, task.title);
  }

  about(event) {
    if (event.task_id) {
      const title = this.titles.get(event.task_id);
      const link = h("a", { href: `/tasks/${segment(event.task_id)}` }, title ?? event.task_id);
      if (title === undefined) {
        this.unnamed.set(event.task_id, [...(this.unnamed.get(event.task_id) ?? []), link]);
        this.nameSoon();
      }
      return link;
    }
    if (event.goal_id) return h("a", { href: `/goals/${segment(event.goal_id)}` }, event.goal_id);
    return h("strong", {}, event.worker ?? "");
  }

  row(event) {
    const more = details(event);
    return h(
      "li", {}, h("time", { datetime: event.timestamp, title: format.full(event.timestamp) }, format.clock(event.timestamp)),
      h("span", {}, h("i", { class: `dot ${kindOfEvent(event)}`, "aria-hidden": "true" }), " ", this.about(event), ` ${words(event)}`, more ? h("span", { class: "faint" }, ` · ${more}`) : null),
    );
  }

  /** Ask for the titles of tasks that were handed in before the page was opened, all at once. */
  async name() {
    const wanted = [...this.unnamed].slice(-MOST);
    this.unnamed.clear();
    if (wanted.length === 0 || this.stopped) return;
    const parameters = new URLSearchParams(wanted.map(([taskId]) => ["id", taskId]));
    parameters.set("timeout", "0");
    try {
      this.learn(await get(`/tasks/wait?${parameters}`));
    } catch {
      return;
    }
    for (const [taskId, links] of wanted) {
      for (const link of links) if (this.titles.has(taskId)) say(link, this.titles.get(taskId));
    }
  }

  stop() {
    this.stopped = true;
    this.nameSoon.stop();
    live.removeEventListener("state", this.begin);
  }
}
