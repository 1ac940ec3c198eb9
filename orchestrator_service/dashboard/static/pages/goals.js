// Goals, and the form for one more.

import { get, post, segment } from "../api.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { askFor, card, doing, empty, gathered, loading, pill, time, trouble } from "../parts.js";
import { may } from "../session.js";

export function goalsPage(_, { go, title }) {
  title("Goals");
  let stopped = false;
  const body = h("div", { class: "goal-list" }, loading());
  async function read() {
    try {
      const goals = await get("/goals?limit=100");
      if (stopped) return;
      body.replaceChildren(...(goals.length ? goals.map((goal) => h(
        "a", { class: "card goal-row", href: `/goals/${segment(goal.goal_id)}` },
        h("span", { class: "apart" }, h("span", { class: "inline" }, pill(goal.state), h("code", { class: "faint small" }, goal.goal_id)), h("span", { class: "faint small" }, time(goal.submitted_at))),
        h("span", { class: "goal-text" }, goal.goal),
        h("span", { class: "faint small" }, `${format.count(goal.task_ids.length)} tasks · ${format.money(goal.cost_usd)} · by ${goal.submitted_by}`),
      )) : [card("", {}, empty("No goals yet", h("p", {}, "A goal is split into tasks by an agent, which waits for them and sums up."), h("code", {}, "codehornets goal \"Plan and announce a summer course.\"")))]));
    } catch (error) {
      if (!stopped) body.replaceChildren(trouble(error, read));
    }
  }
  const soon = gathered(read, 500);
  read();
  const add = may("submit") ? doing("New goal", async () => {
    const goal = await askFor({ title: "New goal", label: "What is to be reached", action: "Begin", needed: true });
    if (!goal) return false;
    const made = await post("/goals", { goal });
    go(`/goals/${segment(made.goal_id)}`);
    return true;
  }, { kind: "first", done: "Begun." }) : null;
  return {
    element: h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", { class: "grow" }, "Goals"), add), body),
    back: read,
    events: (events) => {
      if (events.some((one) => one.goal_id)) soon();
    },
    stop: () => {
      stopped = true;
      soon.stop();
    },
  };
}
