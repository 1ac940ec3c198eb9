// The form in which a task is handed in.

import { get, post } from "./api.js";
import { h, say } from "./dom.js";
import { toast } from "./parts.js";

const PRIORITIES = [["25", "Low"], ["50", "Normal"], ["75", "High"], ["100", "Urgent"]];

function number(input) {
  return input.value.trim() === "" ? undefined : Number(input.value);
}

export function openSubmit(go) {
  const description = h("textarea", { id: "new-description", required: true, rows: "6", "aria-describedby": "new-wrong" });
  const title = h("input", { id: "new-title", maxlength: "200" });
  const whom = h("select", { id: "new-whom" }, h("option", { value: "" }, "Whoever is free"));
  const priority = h("select", { id: "new-priority" }, PRIORITIES.map(([value, word]) => h("option", { value, selected: value === "50" }, word)));
  const model = h("input", { id: "new-model", placeholder: "the worker's own" });
  const timeout = h("input", { id: "new-timeout", type: "number", min: "1", max: "2592000", placeholder: "the worker's own" });
  const budget = h("input", { id: "new-budget", type: "number", min: "0.01", step: "0.01", placeholder: "none" });
  const retries = h("input", { id: "new-retries", type: "number", min: "0", max: "100", placeholder: "0" });
  const session = h("input", { id: "new-session", maxlength: "200", placeholder: "a new one" });
  const question = h("select", { id: "new-question" }, [["", "As the worker is set"], ["deny", "Deny after a while"], ["wait", "Wait for an answer"], ["fail", "End the task"]].map(([value, word]) => h("option", { value }, word)));
  const wrong = h("p", { class: "wrong", id: "new-wrong", role: "alert" });
  const send = h("button", { class: "button first", type: "submit" }, "Hand in");
  const dialog = h("dialog", { "aria-labelledby": "new-heading" });
  const close = () => {
    dialog.close();
    dialog.remove();
  };
  const field = (control, word) => h("div", { class: "field" }, h("label", { for: control.id }, word), control);
  const form = h(
    "form", {},
    h("h2", { id: "new-heading" }, "New task"),
    field(description, "What is to be done"),
    field(title, "Title (optional)"),
    h("div", { class: "two" }, field(whom, "For whom"), field(priority, "Priority")),
    h("details", {}, h("summary", {}, "More options"), h("div", { class: "stack", style: { "margin-top": "12px" } },
      h("div", { class: "two" }, field(model, "Model"), field(timeout, "Time limit, seconds")),
      h("div", { class: "two" }, field(budget, "Budget, US dollars"), field(retries, "Retries")),
      h("div", { class: "two" }, field(session, "Conversation"), field(question, "A question that nobody answers")))),
    wrong,
    h("div", { class: "inline" }, send, h("button", { class: "button bare", type: "button", onclick: close }, "Back")),
  );
  get("/workers").then((workers) => {
    for (const one of workers) whom.append(h("option", { value: `worker:${one.name}` }, one.role ? `${one.name} (${one.role})` : one.name));
    for (const role of new Set(workers.map((one) => one.role).filter(Boolean))) whom.append(h("option", { value: `role:${role}` }, `Any ${role}`));
  }, (error) => say(wrong, error.message));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    say(wrong, "");
    description.removeAttribute("aria-invalid");
    const order = { description: description.value, priority: Number(priority.value) };
    if (title.value.trim()) order.title = title.value.trim();
    const [kind, name] = [whom.value.split(":", 1)[0], whom.value.slice(whom.value.indexOf(":") + 1)];
    if (whom.value) order[kind] = name;
    if (model.value.trim()) order.model = model.value.trim();
    if (session.value.trim()) order.session = session.value.trim();
    if (number(timeout) !== undefined) order.timeout = number(timeout);
    if (number(budget) !== undefined) order.max_budget_usd = number(budget);
    if (number(retries) !== undefined) order.retry = { max_retries: number(retries) };
    if (question.value) order.on_question = question.value;
    send.disabled = true;
    try {
      const told = await post("/tasks", order);
      close();
      toast("Handed in.");
      go(`/tasks/${encodeURIComponent(told.tasks[0].task_id)}`);
    } catch (error) {
      say(wrong, error.message);
      if (error.fields?.some((one) => one.field === "description")) description.setAttribute("aria-invalid", "true");
    } finally {
      send.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  description.focus();
}
