// One task: what it is, what happens to it, what its agent says and does, and what came of it.

import { ask, get, post, segment } from "../api.js";
import { fill, h } from "../dom.js";
import { apply, details, kindOfEvent, words } from "../events.js";
import * as format from "../format.js";
import { live } from "../live.js";
import { prose } from "../markdown.js";
import { askFor, card, doing, empty, facts, gathered, loading, pill, pretty, time, trouble } from "../parts.js";
import { QuestionList } from "../questions.js";
import { may } from "../session.js";
import { Transcript } from "../transcript.js";

const FINAL = new Set(["completed", "failed", "timed_out", "cancelled"]);
const AGAIN = new Set(["failed", "timed_out", "cancelled"]);

export function taskPage(taskId, { title }) {
  title(taskId);
  const path = `/tasks/${segment(taskId)}`;
  let task = null;
  let result = null;
  let stopped = false;
  let stuckWhy = null;
  const transcript = new Transcript();
  const heading = h("div", { class: "page-head" }, h("h1", { class: "grow" }, taskId));
  const notices = h("div", { class: "stack", "aria-live": "polite" });
  const factBox = h("div", {}, loading(2));
  const timeline = h("ol", { class: "timeline" });
  const resultBox = h("div", {}, h("p", { class: "faint" }, "It has not ended."));
  const quiet = h("p", { class: "faint" }, "Nothing yet.");
  const questions = new QuestionList({ task: taskId, whenNone: null });
  const prompt = h("div", {}, loading(2));
  const element = h(
    "div", { class: "page" }, heading, notices, questions.element,
    card("", {}, factBox),
    h("div", { class: "split" },
      h("div", { class: "stack" }, card("Result", {}, resultBox), card("Live transcript", {}, quiet, transcript.element)),
      h("div", { class: "stack" }, card("Timeline", {}, timeline), card("Prompt", {}, prompt))),
  );

  function showHeading() {
    const buttons = [];
    if (may("submit") && !FINAL.has(task.state)) {
      buttons.push(doing("Cancel", async () => {
        const reason = await askFor({ title: "Cancel this task?", label: "Reason (optional)", action: "Cancel the task", kind: "bad" });
        if (reason === null) return false;
        await post(`${path}/cancel`, reason ? { reason } : {});
        return true;
      }, { kind: "bad", done: "Asked to end it." }));
    }
    if (may("submit") && AGAIN.has(task.state)) {
      buttons.push(doing("Try again", async () => {
        await post(`${path}/retry`);
        result = null;
        fill(resultBox, h("p", { class: "faint" }, "It has not ended."));
        await read();
        live.watch(taskId, take);
      }, { kind: "first", done: "It is tried again." }));
    }
    const state = task.cancel_requested_at && !FINAL.has(task.state) ? pill("being cancelled", "warn") : task.stuck ? pill("stuck", "bad") : pill(task.state);
    heading.replaceChildren(
      h("div", { class: "grow stack", style: { gap: "6px" } }, h("h1", {}, task.title ?? task.task_id), h("div", { class: "inline" }, state, h("code", { class: "faint small" }, task.task_id))),
      h("div", { class: "inline" }, buttons),
    );
    title(task.title ?? task.task_id);
    const told = [];
    if (task.error) told.push(h("div", { class: "notice", role: "alert" }, h("strong", {}, task.error.kind), h("span", {}, task.error.message)));
    if (task.stuck) told.push(h("div", { class: "notice", "data-stuck": "" }, stuckWhy ?? "The task seems stuck: its agent shows no progress."));
    if (task.waits_for) told.push(h("div", { class: "notice warn" }, task.waits_for.message));
    fill(notices, told);
  }

  function showFacts() {
    const wire = result?.result;
    const run = task.runs?.at(-1);
    const queued = format.secondsBetween(task.submitted_at, task.started_at);
    const took = format.secondsBetween(task.started_at, task.ended_at);
    const usage = wire?.usage ?? {};
    const needs = (task.needs ?? []).map((id) => h("a", { href: `/tasks/${segment(id)}` }, id, " "));
    fill(factBox, facts([
      ["Worker", task.worker ?? task.route?.worker ?? task.route?.role ?? "any"],
      ["Priority", format.priority(task.priority)],
      ["Handed in", h("span", {}, time(task.submitted_at), ` by ${task.submitted_by}`)],
      ["Waited", format.duration(queued)],
      ["Took", task.ended_at ? format.duration(took) : task.started_at ? h("span", {}, "since ", time(task.started_at)) : "–"],
      ["Cost", `${wire?.cost_is_partial ? "at least " : ""}${format.money(wire?.cost_usd ?? task.cost_usd, wire?.cost_is_notional === true)}${wire?.cost_is_notional ? " (notional)" : ""}`],
      ["Tokens in / out", usage.input_tokens === undefined ? null : `${format.count(usage.input_tokens)} / ${format.count(usage.output_tokens)}`],
      ["Tries", String(task.tries)],
      ["Turns", wire?.num_turns === null || wire?.num_turns === undefined ? null : String(wire.num_turns)],
      ["Branch", wire?.branch ? h("code", { class: "copied" }, wire.branch) : null],
      ["Commit", wire?.commit ? h("code", { class: "copied" }, String(wire.commit)) : null],
      ["Goal", task.goal_id ? h("a", { href: `/goals/${segment(task.goal_id)}` }, task.goal_id) : null],
      ["Graph", task.graph_id], ["Schedule", task.schedule],
      ["Needs", needs.length ? needs : null],
      ["Session", run?.session_id ? h("code", { class: "small" }, run.session_id) : null],
      ["Deadline", task.deadline ? time(task.deadline) : null],
    ]));
  }

  async function read() {
    try {
      const fetched = await get(path);
      if (stopped) return;
      task = fetched;
      if (!task.stuck) stuckWhy = null;
      fill(prompt, h("pre", { tabindex: "0" }, task.description));
      if (FINAL.has(task.state)) await readResult();
      if (stopped) return;
      showHeading();
      showFacts();
    } catch (error) {
      if (stopped) return;
      if (error.status === 404) element.replaceChildren(h("h1", {}, "There is no such task"), empty(taskId, h("p", {}, "It may have been forgotten, or its id is mistyped."), h("a", { class: "button", href: "/tasks" }, "To all tasks")));
      else if (task === null) fill(notices, trouble(error, read));
    }
  }

  async function readResult() {
    try {
      const [told, rendered] = await Promise.all([get(`${path}/result`), ask(`/rendered${path}`)]);
      result = told;
      const parts = [];
      if (rendered.structured !== null) parts.push(pretty(rendered.structured));
      if (rendered.nodes.length && !(rendered.structured !== null && isJson(told.result?.output))) parts.push(isJson(told.result?.output) ? pretty(JSON.parse(told.result.output)) : prose(rendered.nodes));
      if (rendered.cut) parts.push(h("p", { class: "faint small" }, `Only the beginning of ${format.count(rendered.characters)} characters is shown; codehornets result ${taskId} has all of it.`));
      fill(resultBox, h("div", { class: "stack" }, parts.length ? parts : h("p", { class: "faint" }, "It left no output.")));
    } catch (error) {
      if (error.status !== 409) fill(resultBox, trouble(error, readResult));
    }
  }

  const readSoon = gathered(read, 250);

  function take(message) {
    if (message.type === "problem") {
      fill(quiet, message.detail);
      return;
    }
    for (const { event, data } of message.events ?? []) {
      if (event === "agent") {
        transcript.add(data);
        quiet.hidden = true;
        if (String(data.event).startsWith("task_")) note(data);
      } else note(data);
    }
  }

  function note(event) {
    const more = details(event);
    timeline.append(h("li", {}, h("i", { class: `dot ${kindOfEvent(event)}`, "aria-hidden": "true" }), h("span", {}, words(event), more ? h("span", { class: "faint" }, ` · ${more}`) : null), h("span", { class: "faint" }, time(event.timestamp))));
    if (event.event === "task_stuck") stuckWhy = event.data?.message ?? null;
    if (task === null || new Date(event.timestamp) <= newestMoment(task)) return;
    if (apply(task, event)) {
      showHeading();
      showFacts();
    }
    readSoon();
  }

  read();
  live.watch(taskId, take);
  return {
    element,
    back: read,
    events: (events) => {
      questions.events(events);
      // The journal tells of it first; the orchestrator answers so only once it has heard the worker.
      for (const one of events.filter((each) => each.task_id === taskId && /^task_(un)?stuck$/.test(each.event))) {
        stuckWhy = one.event === "task_stuck" ? one.data?.message ?? null : null;
        readSoon();
      }
    },
    stop: () => {
      stopped = true;
      live.unwatch(taskId);
      readSoon.stop();
      questions.stop();
    },
  };
}

/** What the orchestrator told of a task holds all events up to here; those that come again are history. */
function newestMoment(task) {
  return new Date(Math.max(...[task.submitted_at, task.sent_at, task.started_at, task.ended_at].map((at) => (at ? new Date(at).getTime() : 0))));
}

function isJson(text) {
  if (typeof text !== "string" || !/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
