// One worker: whether it is there, what it does, what waits for it.

import { post, segment } from "./api.js";
import { fill, h, say } from "./dom.js";
import * as format from "./format.js";
import { doing, pill } from "./parts.js";
import { may } from "./session.js";

export class WorkerCard {
  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.state = h("span", {});
    this.role = h("span", { class: "faint small cut" });
    this.slots = h("div", { class: "slots", role: "img" });
    this.task = h("dd", { class: "cut" });
    this.queue = h("dd", {});
    this.agent = h("dd", { class: "cut" });
    this.mode = h("dd", { class: "cut" });
    this.beat = h("dd", {});
    this.note = h("p", { class: "small", hidden: true });
    this.button = h("div", {});
    this.paused = null;
    this.element = h(
      "section", { class: "card worker", "aria-label": `Worker ${name}`, "data-worker": name },
      h("div", { class: "apart" }, h("h3", { class: "worker-name" }, name), this.state), this.role,
      this.slots,
      h("dl", {}, h("dt", {}, "Now"), this.task, h("dt", {}, "Queue"), this.queue, h("dt", {}, "Agent"), this.agent, h("dt", {}, "Mode"), this.mode, h("dt", {}, "Last heard"), this.beat),
      this.note, this.button,
    );
  }

  set(worker, tasks, stuck) {
    this.worker = worker;
    this.seenAt = Date.now();
    this.hinted = null;
    const here = worker.instances.find((one) => one.alive) ?? worker.instances[0];
    this.showState(worker.state === "up" ? (tasks.some((one) => stuck.has(one.task_id)) ? "stuck" : worker.in_flight > 0 ? "busy" : "idle") : worker.state);
    say(this.role, [worker.role, ...worker.skills.slice(0, 3)].filter(Boolean).join(" · "));
    const used = Math.min(worker.slots, worker.in_flight);
    const shown = Math.min(12, worker.slots);
    fill(this.slots, Array.from({ length: shown }, (_, at) => h("i", { class: at < used ? "on" : "" })));
    this.slots.setAttribute("aria-label", `${worker.in_flight} of ${worker.slots} slots in use`);
    fill(this.task, tasks.length ? [h("a", { href: `/tasks/${segment(tasks[0].task_id)}` }, tasks[0].title ?? tasks[0].task_id), tasks.length > 1 ? ` + ${tasks.length - 1}` : ""] : "–");
    say(this.queue, `${format.count(worker.in_flight)} sent, ${format.count(worker.waiting)} waiting`);
    say(this.agent, here?.agent ?? "–");
    say(this.mode, here?.mode ?? "–");
    const parked = here?.parked_until && new Date(here.parked_until) > new Date() ? here.parked_until : null;
    this.note.hidden = !parked;
    if (parked) say(this.note, `Waits for a limit until ${format.when(parked)}.`);
    if (may("admin") && this.paused !== worker.paused) {
      this.paused = worker.paused;
      const verb = worker.paused ? "resume" : "pause";
      this.button.replaceChildren(doing(worker.paused ? "Resume" : "Pause", () => post(`/workers/${segment(this.name)}/${verb}`).finally(this.changed), { kind: "tiny", done: `${this.name} ${worker.paused ? "gets tasks again" : "gets no new tasks"}.` }));
    }
    this.age();
  }

  /** An event tells of it before the next look does. */
  hint(state) {
    this.showState(state);
  }

  showState(state) {
    if (this.shown === state) return;
    this.shown = state;
    this.state.replaceChildren(pill(state));
  }

  age() {
    if (!this.worker) return;
    const age = this.worker.heartbeat_age_seconds;
    say(this.beat, age === null ? "never" : format.ago(age + (Date.now() - this.seenAt) / 1000));
  }
}
