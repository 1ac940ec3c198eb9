// What may be spent today: spent, reserved for what runs, and left.

import { h } from "./dom.js";
import * as format from "./format.js";
import { card } from "./parts.js";

export function budgetCard(budget) {
  const limit = budget?.limit_usd ?? null;
  const spent = budget?.spent_usd ?? 0;
  const reserved = budget?.reserved_usd ?? 0;
  if (limit === null) {
    return card("Budget today", {}, h("p", {}, h("span", { class: "chart-value" }, format.money(spent)), h("span", { class: "soft" }, " spent, no limit")), h("p", { class: "faint small" }, "DAY_BUDGET_USD sets one."));
  }
  const share = (value) => `${Math.min(100, (100 * value) / limit).toFixed(1)}%`;
  const left = budget.left_usd ?? Math.max(0, limit - spent - reserved);
  const words = `${format.money(spent)} spent, ${format.money(reserved)} reserved, ${format.money(left)} left of ${format.money(limit)}`;
  return card(
    "Budget today", { side: h("span", { class: "soft small" }, `of ${format.money(limit)}`) },
    h("div", { class: `meter${spent >= limit ? " full" : ""}`, role: "img", "aria-label": words }, h("i", { style: { width: share(spent) } }), h("i", { class: "kept", style: { width: share(reserved) } })),
    h("dl", { class: "facts", style: { "margin-top": "12px", "grid-template-columns": "repeat(3, 1fr)" } }, [["Spent", spent], ["Reserved", reserved], ["Left", left]].map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd", {}, format.money(value))))),
  );
}
