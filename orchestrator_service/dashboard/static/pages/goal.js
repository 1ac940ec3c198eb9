// One goal: its tasks as a graph, what its agent says, what it cost and what came of it.

import { ask, get, post, segment } from "../api.js";
import { fill, h } from "../dom.js";
import { apply, details, words } from "../events.js";
import * as format from "../format.js";
import { graph } from "../graph.js";
import { prose } from "../markdown.js";
import { card, doing, empty, facts, gathered, loading, pill, time, trouble } from "../parts.js";
import { may } from "../session.js";

const AT_ONCE = 6;
const MOST_DRAWN = 300;

export function goalPage(goalId, { title }) {
  title("Goal");
  const path = `/goals/${segment(goalId)}`;
  const tasks = new Map();
  let goal = null;
  let stopped = false;
  const heading = h("div", { class: "page-head" }, h("h1", { class: "grow" }, goalId));
  const notices = h("div", { class: "stack", "aria-live": "polite" });
  const factBox = h("div", {}, loading(1));
  const drawing = h("div", {}, loading(2));
  const output = h("div", {}, h("p", { class: "faint" }, "It is worked on."));
  const feed = h("ol", { class: "feed", role: "log", "aria-label": "What happens for this goal", tabindex: "0" });
  const quiet = h("p", { class: "faint" }, "Nothing since this page was opened.");

  const graphHead = h("h2", { id: "goal-tasks" }, "Tasks");
  const element = h(
    "div", { class: "page" }, heading, notices, card("", {}, factBox),
    h("section", { class: "card flush", "aria-labelledby": "goal-tasks" }, h("div", { class: "card-head" }, graphHead), h("div", { style: { padding: "12px" } }, drawing)),
    h("div", { class: "split" }, card("What came of it", {}, output), card("Live", {}, quiet, feed)),
  );

  function draw() {
    const nodes = [...tasks.values()].slice(0, MOST_DRAWN).map((task) => ({
      id: task.task_id, title: task.title ?? task.task_id, state: task.state, worker: task.worker, needs: task.needs?.length ? task.needs : task.parent ? [task.parent] : [],
      href: `/tasks/${segment(task.task_id)}`,
    }));
    const focused = document.activeElement?.getAttribute?.("data-task");
    const scroll = drawing.firstElementChild?.scrollLeft ?? 0;
    drawing.replaceChildren(nodes.length ? graph(nodes, `${nodes.length} tasks of the goal`) : h("p", { class: "faint" }, "No tasks yet."));
    if (drawing.firstElementChild) drawing.firstElementChild.scrollLeft = scroll;
    if (focused) [...drawing.querySelectorAll("a")].find((one) => one.getAttribute("data-task") === focused)?.focus();
  }

  async function readTasks() {
    const known = [];
    let cursor = null;
    do {
      const page = await get(`/tasks?goal=${segment(goalId)}&limit=500&order=asc${cursor ? `&cursor=${segment(cursor)}` : ""}`);
      known.push(...page.tasks);
      cursor = page.next_cursor;
    } while (cursor !== null && known.length < MOST_DRAWN);
    const wanting = known.filter((task) => task.dependencies > 0 && !tasks.get(task.task_id)?.needs);
    for (const task of known) tasks.set(task.task_id, { ...task, needs: tasks.get(task.task_id)?.needs });
    for (let at = 0; at < wanting.length && !stopped; at += AT_ONCE) {
      const records = await Promise.all(wanting.slice(at, at + AT_ONCE).map((task) => get(`/tasks/${segment(task.task_id)}`)));
      for (const record of records) tasks.get(record.task_id).needs = record.needs;
    }
  }

  async function read() {
    try {
      goal = await get(path);
      await readTasks();
      if (stopped) return;
      const running = goal.state === "running";
      const cancel = running && may("submit") ? doing("Cancel", () => post(`${path}/cancel`), { kind: "bad", done: "Asked to end it." }) : null;
      heading.replaceChildren(
        h("div", { class: "grow stack", style: { gap: "6px" } }, h("h1", {}, goal.goal.length > 160 ? `${goal.goal.slice(0, 160)}…` : goal.goal), h("div", { class: "inline" }, pill(goal.state), h("code", { class: "faint small" }, goal.goal_id))),
        h("div", { class: "inline" }, cancel),
      );
      title(goal.goal.slice(0, 60));
      fill(notices, goal.error ? h("div", { class: "notice", role: "alert" }, h("strong", {}, goal.error.kind), h("span", {}, goal.error.message)) : null);
      const done = [...tasks.values()].filter((task) => task.ended_at).length;
      fill(factBox, facts([
        ["Tasks ended", `${done} of ${tasks.size} (at most ${goal.max_tasks})`],
        ["Cost", format.money(goal.cost_usd)], ["of it the agent's", format.money(goal.agent_cost_usd)],
        ["Budget", goal.max_budget_usd ? format.money(goal.max_budget_usd) : null],
        ["Handed in", h("span", {}, time(goal.submitted_at), ` by ${goal.submitted_by}`)], ["Ended", goal.ended_at ? time(goal.ended_at) : null],
      ]));
      draw();
      if (goal.output) {
        const rendered = await ask(`/rendered${path}`);
        if (!stopped) fill(output, prose(rendered.nodes));
      } else if (!running) fill(output, h("p", { class: "faint" }, "It left nothing."));
    } catch (error) {
      if (stopped) return;
      if (error.status === 404) element.replaceChildren(h("h1", {}, "There is no such goal"), empty(goalId, h("a", { class: "button", href: "/goals" }, "To all goals")));
      else fill(notices, trouble(error, read));
    }
  }

  const soon = gathered(read, 600);
  read();
  return {
    element, back: read,
    events: (events) => {
      for (const event of events) {
        const known = tasks.get(event.task_id);
        if (event.goal_id !== goalId && event.data?.goal_id !== goalId && known === undefined) continue;
        if (known !== undefined && apply(known, event)) draw();
        quiet.hidden = true;
        const who = known?.title ?? event.task_id ?? "";
        feed.prepend(h("li", {}, h("time", {}, format.clock(event.timestamp)), h("span", {}, who ? h("strong", {}, `${who} `) : null, words(event), details(event) ? `: ${details(event)}` : "")));
        while (feed.childElementCount > 200) feed.lastChild.remove();
        soon();
      }
    },
    stop: () => {
      stopped = true;
      soon.stop();
    },
  };
}
