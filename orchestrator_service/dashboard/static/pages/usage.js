// What it costs: by day, worker, goal, task and model; dollars that nobody is billed are labelled so.

import { get, segment } from "../api.js";
import { Chart } from "../charts.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { budgetCard } from "../budget.js";
import { card, choice, empty, gathered, loading, trouble } from "../parts.js";

const BY = [["day", "Day"], ["worker", "Worker"], ["goal", "Goal"], ["task", "Task"], ["model", "Model"]];
const SPANS = [["1", "24 hours"], ["7", "7 days"], ["30", "30 days"]];

function name(by, row) {
  if (!row.key) return "none";
  if (by === "task") return h("a", { href: `/tasks/${segment(row.key)}` }, row.label ?? row.key);
  if (by === "goal") return h("a", { href: `/goals/${segment(row.key)}` }, row.label ?? row.key);
  return row.label ?? row.key;
}

export function usagePage(_, { title }) {
  title("Usage");
  let by = "day";
  let days = "7";
  let stopped = false;
  const body = h("div", {}, loading());
  const budget = h("div", {});
  const cost = new Chart({
    title: "Cost over time", show: (value) => format.money(value),
    series: [{ label: "billed", key: "cost_usd", kind: "bar", color: 0 }, { label: "notional", key: "notional_cost_usd", kind: "bar", color: 2 }],
    headline: (data) => format.money(sum(data.cost_usd)),
  });
  const since = () => new Date(Date.now() - Number(days) * 86_400_000).toISOString();

  async function read() {
    const asked = by;
    try {
      const steps = { 1: 3600, 7: 6 * 3600, 30: 86_400 };
      const [usage, series] = await Promise.all([get(`/usage?by=${by}&since=${since()}&limit=200`), get(`/series?since=${since()}&step=${steps[days]}`)]);
      if (stopped || asked !== by) return;
      cost.set(series);
      budget.replaceChildren(budgetCard(usage.budget));
      const rows = usage.rows;
      const cells = (row) => [
        h("td", { class: "num" }, format.count(row.tasks)), h("td", { class: "num" }, format.money(row.cost_usd)),
        h("td", { class: "num faint" }, row.notional_cost_usd ? format.money(row.notional_cost_usd, true) : "–"),
        h("td", { class: "num" }, format.short(row.input_tokens)), h("td", { class: "num" }, format.short(row.output_tokens)),
        h("td", { class: "num" }, format.short((row.cache_read_tokens ?? 0) + (row.cache_creation_tokens ?? 0))),
      ];
      const heads = [BY.find(([value]) => value === by)[1], "Tasks", "Cost", "Notional", "Tokens in", "Tokens out", "Cache"];
      fill(body, rows.length ? h("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": "Usage" }, h(
        "table", { class: "plain" },
        h("thead", {}, h("tr", {}, heads.map((word, at) => h("th", { class: at ? "num" : "", scope: "col" }, word)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, name(by, row)), cells(row)))),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "Together"), cells(usage.total))),
      )) : empty("Nothing was spent in this time", h("p", {}, "Costs stand here as soon as a task with Claude has ended.")));
    } catch (error) {
      if (!stopped) body.replaceChildren(trouble(error, read));
    }
  }
  const soon = gathered(read, 3000);
  read();
  const element = h(
    "div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", { class: "grow" }, "Usage"), choice("Time", SPANS, days, (value) => {
      days = value;
      read();
    })),
    h("div", { class: "split" }, cost.element, budget),
    card("By", { flush: true, side: choice("By what", BY, by, (value) => {
      by = value;
      read();
    }) }, body),
    h("p", { class: "faint small" }, "Notional: what the tokens of a subscription would have cost by the API's prices. Nobody is billed for them, and budgets count them like others."),
  );
  return {
    element, back: read,
    events: (events) => {
      if (events.some((one) => one.event === "task_ended")) soon();
    },
    stop: () => {
      stopped = true;
      soon.stop();
    },
  };
}

const sum = (values) => (values ?? []).reduce((total, value) => total + (value ?? 0), 0);
