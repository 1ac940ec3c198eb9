// All tasks: filtered, searched and sorted by the orchestrator, of which the page holds what was scrolled past.

import { get, query } from "../api.js";
import { h, say } from "../dom.js";
import { apply } from "../events.js";
import * as format from "../format.js";
import { VirtualList } from "../list.js";
import { empty, gathered, kindOf, trouble, wordOf } from "../parts.js";
import { may } from "../session.js";
import { openSubmit } from "../submit.js";

const FIRST = 60;
const PAGE = 500;
/** A search that is under way is given up for another word after so long; where none is, a letter is looked for at once. */
const TYPING_MS = 40;
/** Who has not scrolled needs no further rows at once: the next word that is typed shall not wait behind them. */
const AHEAD_MS = 400;
const STATES = [["", "All states"], ["open", "Open"], ["running,sent", "Running"], ["ready,blocked,scheduled", "Waiting"], ["completed", "Completed"], ["failed,timed_out", "Failed"], ["cancelled", "Cancelled"]];
const OPEN = "blocked,scheduled,ready,sent,running";
const COLUMNS = [["Title", "title"], ["State", "state"], ["Worker", "worker"], ["Priority", "priority"], ["Handed in", "submitted"], ["Took", "duration"], ["Cost", "cost"]];

function makeRow() {
  const title = h("a", { class: "title cut", href: "/tasks" });
  const dot = h("i", { class: "dot", "aria-hidden": "true" });
  const word = document.createTextNode("");
  const pill = h("span", { class: "pill" }, dot, word);
  const cells = [h("span", { class: "cut", role: "cell" }, title), h("span", { role: "cell" }, pill)];
  for (const kind of ["cut", "soft", "soft", "num", "num"]) cells.push(h("span", { class: kind, role: "cell" }));
  const row = h("div", { class: "row", role: "row" }, cells);
  row.parts = { title, dot, word, pill, cells };
  return row;
}

function showRow(row, task) {
  const { title, dot, word, pill, cells } = row.parts;
  if (task === undefined) {
    say(title, "…");
    title.removeAttribute("href");
    pill.className = "pill";
    word.data = "loading";
    for (const cell of cells.slice(2)) say(cell, "");
    return;
  }
  say(title, task.title ?? task.task_id);
  title.setAttribute("href", `/tasks/${encodeURIComponent(task.task_id)}`);
  const kind = task.stuck ? "bad" : kindOf(task.state);
  pill.className = `pill ${kind}`;
  dot.className = `dot ${kind}`;
  word.data = task.stuck ? "stuck" : wordOf(task.state);
  say(cells[2], task.worker ?? task.route?.worker ?? task.route?.role ?? "any");
  say(cells[3], format.priority(task.priority));
  say(cells[4], format.when(task.submitted_at));
  say(cells[5], format.duration(format.secondsBetween(task.started_at, task.ended_at)));
  say(cells[6], format.money(task.cost_usd));
}

export function tasksPage(_, { go, title }) {
  title("Tasks");
  const given = new URLSearchParams(location.search);
  const wish = { q: given.get("q") ?? "", state: given.get("state") ?? "", worker: given.get("worker") ?? "", sort: given.get("sort") ?? "submitted", order: given.get("order") ?? "desc" };
  let items = [];
  let byId = new Map();
  let total = 0;
  let cursor = null;
  let generation = 0;
  let reading = null;
  let range = [0, 40];
  let unseen = 0;
  let ahead = 0;
  let typing = 0;
  let busy = false;

  const search = h("input", { id: "search", type: "search", placeholder: "Title, id or prompt", value: wish.q, autocomplete: "off" });
  const state = h("select", { id: "state" }, STATES.map(([value, word]) => h("option", { value, selected: value === wish.state }, word)));
  const worker = h("select", { id: "worker" }, h("option", { value: "" }, "All workers"));
  const summary = h("span", { role: "status", "aria-live": "polite" }, "Loading …");
  const fresh = h("button", { class: "button tiny", type: "button", hidden: true, onclick: () => { list.toTop(); read(); } });
  const head = h("div", { class: "list-head", role: "row", "aria-label": "Sort" });
  const problem = h("div", {});
  const nothing = h("div", { hidden: true });

  const list = new VirtualList({
    label: "Tasks", columns: COLUMNS, make: makeRow, show: showRow,
    onRange: (first, last) => {
      range = [first, last];
      clearTimeout(ahead);
      if (first > 0 || last > items.length) more();
      else ahead = setTimeout(more, AHEAD_MS);
    },
  });

  const showHead = () => head.replaceChildren(...COLUMNS.map(([word, name], at) => {
    const sorted = wish.sort === name ? (wish.order === "asc" ? "ascending" : "descending") : "none";
    const mark = sorted === "none" ? "" : sorted === "ascending" ? "↑" : "↓";
    return h("span", { class: at > 4 ? "num" : "", role: "columnheader", "aria-sort": sorted }, h("button", { type: "button", onclick: () => {
      const first = ["title", "worker", "state"].includes(name) ? "asc" : "desc";
      Object.assign(wish, { sort: name, order: wish.sort === name ? (wish.order === "asc" ? "desc" : "asc") : first });
      changed();
    } }, word, mark ? h("span", { "aria-hidden": "true" }, mark) : null));
  }));

  const parameters = (extra) => query({ q: wish.q, state: wish.state === "open" ? OPEN : wish.state, worker: wish.worker, sort: wish.sort, order: wish.order, ...extra });

  const told = () => {
    const filtered = wish.q || wish.state || wish.worker;
    say(summary, `${format.count(total)} ${total === 1 ? "task" : "tasks"}${filtered ? " match" : ""}`);
    nothing.hidden = total > 0;
    list.element.hidden = total === 0;
    if (total === 0) {
      nothing.replaceChildren(filtered
        ? empty("No task matches", h("p", {}, "Other words or another state may find it."), h("button", { class: "button", type: "button", onclick: () => { Object.assign(wish, { q: "", state: "", worker: "" }); search.value = ""; state.value = ""; worker.value = ""; changed(); } }, "Show all tasks"))
        : empty("No tasks yet", h("p", {}, "Hand in the first one here, by the command ", h("code", {}, "codehornets submit"), ", or as a file."), may("submit") ? h("button", { class: "button first", type: "button", onclick: () => openSubmit(go) }, "New task") : null));
    }
  };

  const take = (page, from) => {
    const fetched = page.tasks;
    for (const task of fetched) {
      task.version = 0;
      byId.set(task.task_id, task);
    }
    items = from === 0 ? fetched : items.concat(fetched);
    cursor = page.next_cursor;
    total = Math.max(page.total ?? 0, items.length + (cursor === null ? 0 : 1));
    if (cursor === null) total = items.length;
    told();
    list.set(items, total);
  };

  async function read() {
    const mine = (generation += 1);
    cursor = null;
    reading?.abort();
    const own = (reading = new AbortController());
    busy = true;
    try {
      const page = await get(`/tasks${parameters({ limit: FIRST, count: true })}`, { signal: own.signal });
      if (mine !== generation) return;
      byId = new Map();
      unseen = 0;
      fresh.hidden = true;
      problem.replaceChildren();
      take(page, 0);
    } catch (error) {
      if (error.name !== "AbortError" && mine === generation) problem.replaceChildren(trouble(error, read));
    } finally {
      if (mine === generation) {
        busy = false;
        if (typing) look();
      }
    }
  }

  let fetching = false;
  async function more() {
    if (fetching || cursor === null || range[1] + 100 < items.length) return;
    fetching = true;
    const mine = generation;
    try {
      while (cursor !== null && range[1] + 100 >= items.length && mine === generation) {
        const page = await get(`/tasks${parameters({ limit: PAGE, cursor })}`, { signal: reading.signal });
        if (mine !== generation) break;
        take({ ...page, total: page.total ?? total }, items.length);
      }
    } catch (error) {
      if (error.name !== "AbortError" && mine === generation) problem.replaceChildren(trouble(error, () => { problem.replaceChildren(); more(); }));
    } finally {
      fetching = false;
      if (mine !== generation) more();
    }
  }

  function changed() {
    history.replaceState({}, "", `/tasks${query({ q: wish.q, state: wish.state, worker: wish.worker, sort: wish.sort === "submitted" ? "" : wish.sort, order: wish.order === "desc" ? "" : wish.order })}`);
    showHead();
    list.toTop();
    read();
  }

  const look = () => {
    clearTimeout(typing);
    typing = 0;
    const words = search.value.trim();
    if (words === wish.q) return;
    wish.q = words;
    changed();
  };
  search.addEventListener("input", () => {
    if (!busy) look();
    else if (!typing) typing = setTimeout(look, TYPING_MS);
  });
  state.addEventListener("change", () => {
    wish.state = state.value;
    changed();
  });
  worker.addEventListener("change", () => {
    wish.worker = worker.value;
    changed();
  });

  const renew = gathered(() => {
    if (list.atTop()) read();
  }, 700);
  const redraw = gathered(() => list.draw(), 0);

  /** All workers of the team, and the one that the address names. */
  async function readWorkers() {
    let names;
    try {
      names = (await get("/workers")).map((one) => one.name);
    } catch {
      return;
    }
    const all = new Set(wish.worker ? [...names, wish.worker] : names);
    for (const one of all) {
      if (![...worker.options].some((option) => option.value === one)) worker.append(h("option", { value: one }, one));
    }
    worker.value = wish.worker;
  }
  const workersSoon = gathered(readWorkers, 2000);

  showHead();
  read();
  readWorkers();

  const field = (id, word, control, kind = "") => h("div", { class: `field ${kind}` }, h("label", { for: id }, word), control);
  const submit = may("submit") ? h("button", { class: "button first", type: "button", onclick: () => openSubmit(go) }, "New task") : null;
  const element = h(
    "div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", { class: "grow" }, "Tasks"), submit),
    problem,
    h("div", { class: "filters" }, field("search", "Search", search, "search"), field("state", "State", state), field("worker", "Worker", worker)),
    h("section", { class: "card flush", "aria-label": "List of tasks" }, h("div", { role: "table", "aria-label": "Columns, by which the list is sorted" }, h("div", { role: "rowgroup" }, head)), nothing, list.element, h("div", { class: "list-foot" }, summary, fresh)),
  );
  return {
    element,
    back: read,
    stop: () => {
      generation += 1;
      reading?.abort();
      renew.stop();
      workersSoon.stop();
      clearTimeout(typing);
      clearTimeout(ahead);
      list.stop();
    },
    events: (events) => {
      for (const event of events) {
        if (event.event === "worker_up") workersSoon();
        const known = byId.get(event.task_id);
        if (known !== undefined) {
          if (apply(known, event)) redraw();
          if (event.event === "task_ended") renew();
        } else if (event.event === "task_submitted") {
          unseen += 1;
          if (list.atTop()) renew();
          else {
            fresh.hidden = false;
            say(fresh, `${format.count(unseen)} new: to the top`);
          }
        }
      }
    },
  };
}


