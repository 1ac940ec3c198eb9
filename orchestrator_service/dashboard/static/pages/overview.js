// The page that is left open: who works, what needs a person, how it goes, what it costs.

import { get, post, query, segment } from "../api.js";
import { Chart, topDuration } from "../charts.js";
import { budgetCard } from "../budget.js";
import { fill, h, say } from "../dom.js";
import { details } from "../events.js";
import { Feed } from "../feed.js";
import * as format from "../format.js";
import { card, choice, doing, empty, gathered, loading, time, trouble } from "../parts.js";
import { questionBox } from "../questions.js";
import { may } from "../session.js";
import { openSubmit } from "../submit.js";
import { WorkerCard } from "../workers.js";

const SPANS = { "1h": [3600, 60], "24h": [86_400, 1800], "7d": [7 * 86_400, 6 * 3600] };

const sum = (values) => (values ?? []).reduce((total, value) => total + (value ?? 0), 0);
const lastOf = (values) => (values ?? []).filter((value) => value !== null && value !== undefined).at(-1) ?? null;

function charts() {
  return [
    new Chart({ title: "Throughput", whole: true, show: format.count, headline: (data) => `${format.count(sum(data.completed) + sum(data.failed))} ended`, series: [{ label: "completed", key: "completed", kind: "bar", color: 0 }, { label: "failed", key: "failed", kind: "bar", color: 1 }] }),
    new Chart({ title: "Latency", show: format.duration, axis: format.axisDuration, nice: topDuration, headline: (data) => `p95 ${format.duration(lastOf(data.p95_seconds))}`, series: [{ label: "p50", key: "p50_seconds", kind: "area", color: 0 }, { label: "p95", key: "p95_seconds", kind: "line", color: 2 }, { label: "p99", key: "p99_seconds", kind: "line", color: 1 }] }),
    new Chart({ title: "Error rate", show: format.percent, headline: (data) => format.percent(sum(data.completed) + sum(data.failed) ? sum(data.failed) / (sum(data.completed) + sum(data.failed)) : 0), series: [{ label: "failed", key: "error_rate", kind: "area", color: 1 }] }),
    new Chart({ title: "Queue", whole: true, show: format.count, headline: (data) => `${format.count(lastOf(data.queue_depth) ?? 0)} waiting`, series: [{ label: "waiting", key: "queue_depth", kind: "area", color: 0 }, { label: "running", key: "running", kind: "line", color: 2 }] }),
    new Chart({ title: "Cost", show: (value) => format.money(value), headline: (data) => `${format.money(sum(data.cost_usd))}${sum(data.notional_cost_usd) ? ` + ${format.money(sum(data.notional_cost_usd), true)} notional` : ""}`, series: [{ label: "billed", key: "cost_usd", kind: "bar", color: 0 }, { label: "notional", key: "notional_cost_usd", kind: "bar", color: 2 }] }),
  ];
}

export function overviewPage(_, { go, title }) {
  title("Overview");
  let stopped = false;
  let span = "1h";
  const cards = new Map();
  const stuck = new Map();
  const problem = h("div", {});
  const figures = new Map();
  const figure = (name, word, href) => {
    const value = h("b", {}, "–");
    figures.set(name, value);
    return h("a", { class: "figure", href }, value, h("span", {}, word));
  };
  const figureRow = h(
    "div", { class: "figures" }, figure("workers", "workers up", "/"), figure("running", "running", "/tasks?state=running%2Csent"), figure("waiting", "waiting", "/tasks?state=ready%2Cblocked%2Cscheduled"),
    figure("completed", "completed", "/tasks?state=completed"), figure("failed", "failed", "/tasks?state=failed%2Ctimed_out"), figure("spent", "spent today", "/usage"),
  );
  const workerBox = h("div", { class: "workers" }, loading());
  const needs = h("div", { "aria-live": "polite" }, loading(1));
  const budget = h("div", {});
  const feed = new Feed();
  const all = charts();
  const chartBox = h("div", { class: "charts" }, all.map((one) => one.element));
  const chartNote = h("div", {});

  async function readWorkers() {
    try {
      const [workers, tasks, counts] = await Promise.all([get("/workers"), get(`/tasks${query({ state: "running,sent", limit: 200 })}`), get("/counts")]);
      if (stopped) return;
      problem.replaceChildren();
      const running = new Map();
      feed.learn(tasks.tasks);
      for (const task of tasks.tasks) running.set(task.worker, [...(running.get(task.worker) ?? []), task]);
      if (workers.length === 0) workerBox.replaceChildren(card("", {}, empty("No workers yet", h("p", {}, "The first one starts with ", h("code", {}, "codehornets worker marie"), ", a whole team with ", h("code", {}, "codehornets up"), "."))));
      else if (cards.size !== workers.length || workers.some((one) => !cards.has(one.name))) {
        cards.clear();
        for (const one of workers) cards.set(one.name, new WorkerCard(one.name, readSoon));
        workerBox.replaceChildren(...[...cards.values()].map((one) => one.element));
      }
      takeStuck(workers);
      for (const one of workers) cards.get(one.name).set(one, running.get(one.name) ?? [], stuck);
      const counted = (...states) => states.reduce((total, state) => total + (counts[state] ?? 0), 0);
      say(figures.get("workers"), `${workers.filter((one) => one.state === "up" || one.state === "paused").length}/${workers.length}`);
      say(figures.get("running"), format.count(counted("running", "sent")));
      say(figures.get("waiting"), format.count(counted("ready", "blocked", "scheduled")));
      say(figures.get("completed"), format.count(counted("completed")));
      say(figures.get("failed"), format.count(counted("failed", "timed_out")));
      say(figures.get("spent"), format.money(sum(workers.map((one) => one.spent_today_usd))));
    } catch (error) {
      if (!stopped && error.name !== "AbortError") problem.replaceChildren(trouble(error, readWorkers));
    }
  }

  /** Heartbeats name the tasks that are stuck, as the worker calls them: a later try of ID is ID+2. */
  function takeStuck(workers) {
    const instances = workers.flatMap((one) => one.instances.filter((each) => each.alive));
    const told = new Set(instances.flatMap((one) => one.stuck_tasks ?? []).map((id) => id.replace(/\+\d+$/, "")));
    const before = [...stuck.keys()].join();
    for (const id of [...stuck.keys()]) if (!told.has(id)) stuck.delete(id);
    for (const id of told) if (!stuck.has(id)) stuck.set(id, { data: { message: "Its agent shows no progress; its page says why." } });
    if ([...stuck.keys()].join() !== before) needsSoon();
  }

  async function readNeeds() {
    const day = new Date(Date.now() - 86_400_000).toISOString();
    const asked = await Promise.allSettled([get("/questions?state=open"), get("/gates"), get(`/tasks${query({ state: "failed,timed_out", since: day, limit: 8 })}`), get("/budget")]);
    if (stopped) return;
    const [questions, gates, failed, money] = asked.map((one) => (one.status === "fulfilled" ? one.value : null));
    const rows = [];
    for (const one of questions ?? []) rows.push(questionBox(one, needsSoon));
    for (const [taskId, event] of stuck) {
      rows.push(h("li", {}, h("div", { class: "inline" }, h("strong", {}, "Stuck: "), h("a", { href: `/tasks/${segment(taskId)}` }, feed.titles.get(taskId) ?? taskId)), h("p", { class: "small soft" }, details(event))));
    }
    for (const gate of (gates ?? []).filter((one) => one.state !== "open")) {
      const until = gate.until ? h("span", {}, ", goes on at ", time(gate.until)) : "";
      rows.push(h(
        "li", { "data-gate": gate.gate_id },
        h("div", { class: "inline" }, h("strong", {}, "Waiting for a limit"), h("span", { class: "soft" }, gate.kind)),
        h("p", { class: "small soft" }, gate.message ?? "", until, gate.parked_tasks ? ` · ${format.count(gate.parked_tasks)} parked` : ""),
        may("admin") ? h("div", {}, doing("End the wait now", () => post(`/gates/${segment(gate.gate_id)}/open`).finally(needsSoon), { kind: "tiny", done: "The wait is over." })) : null,
      ));
    }
    for (const task of failed?.tasks ?? []) {
      rows.push(h(
        "li", {},
        h("div", { class: "apart" }, h("a", { class: "cut", href: `/tasks/${segment(task.task_id)}` }, task.title ?? task.task_id), h("span", { class: "faint small" }, time(task.ended_at))),
        h("p", { class: "small soft" }, task.error ? task.error.message : "failed"),
        may("submit") ? h("div", {}, doing("Try again", () => post(`/tasks/${segment(task.task_id)}/retry`).finally(needsSoon), { kind: "tiny", done: "It is tried again." })) : null,
      ));
    }
    const busy = needs.contains(document.activeElement) && document.activeElement.matches("button");
    if (!busy || document.activeElement.disabled) fill(needs, card(rows.length ? "Needs a person" : "", {}, rows.length ? h("ul", { class: "needs" }, rows) : h("p", { class: "inline" }, h("i", { class: "dot good", "aria-hidden": "true" }), "Nothing needs you.")));
    if (money !== null) budget.replaceChildren(budgetCard(money));
  }

  async function readSeries() {
    const [seconds, step] = SPANS[span];
    try {
      const data = await get(`/series${query({ since: new Date(Date.now() - seconds * 1000).toISOString(), step })}`);
      if (stopped) return;
      chartNote.replaceChildren();
      for (const one of all) one.set(data);
    } catch (error) {
      if (!stopped) chartNote.replaceChildren(trouble(error, readSeries));
    }
  }

  const readSoon = gathered(readWorkers, 500);
  const needsSoon = gathered(readNeeds, 500);
  const seriesSoon = gathered(readSeries, 5000);
  const everything = () => {
    readWorkers();
    readNeeds();
    readSeries();
  };
  everything();
  const ages = setInterval(() => {
    for (const one of cards.values()) one.age();
  }, 1000);
  const rounds = setInterval(() => {
    if (document.visibilityState === "visible") readSoon();
  }, 10_000);
  const slowly = setInterval(() => {
    if (document.visibilityState === "visible") seriesSoon();
  }, 60_000);

  const submit = may("submit") ? h("button", { class: "button first", type: "button", onclick: () => openSubmit(go) }, "New task") : null;
  const spans = choice("Time of the charts", Object.keys(SPANS).map((name) => [name, name]), span, (value) => {
    span = value;
    readSeries();
  });
  const element = h(
    "div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", { class: "grow" }, "Overview"), submit),
    problem, figureRow,
    h("div", { class: "split" },
      h("div", { class: "stack" }, h("section", { class: "stack", "aria-labelledby": "workers-head", style: { gap: "10px" } }, h("h2", { id: "workers-head" }, "Workers"), workerBox),
        h("section", { class: "stack", "aria-labelledby": "charts-head", style: { gap: "10px" } }, h("div", { class: "apart" }, h("h2", { id: "charts-head" }, "How it goes"), spans), chartNote, chartBox)),
      h("div", { class: "stack" }, needs, budget, card("What happens", {}, feed.element))),
  );
  return {
    element,
    back: everything,
    events: (events) => {
      for (const event of events) {
        if (event.event === "task_stuck") stuck.set(event.task_id, event);
        if (event.event === "task_unstuck" || event.event === "task_ended") stuck.delete(event.task_id);
        if (event.event === "worker_down" || event.event === "worker_up") cards.get(event.worker)?.hint(event.event === "worker_up" ? "up" : "down");
      }
      feed.add(events);
      readSoon();
      if (events.some((one) => /^(permission_|gate_|task_stuck|task_unstuck|task_ended|task_retrying)/.test(one.event))) needsSoon();
      if (events.some((one) => one.event === "task_ended")) seriesSoon();
    },
    stop: () => {
      stopped = true;
      feed.stop();
      for (const timer of [ages, rounds, slowly]) clearInterval(timer);
      for (const one of [readSoon, needsSoon, seriesSoon]) one.stop();
    },
  };
}


