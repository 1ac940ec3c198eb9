// Questions of agents that a person answers: what is asked, why, until when, and two buttons.

import { get, post, query, segment } from "./api.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { askFor, card, doing, gathered, pill, pretty, time, trouble } from "./parts.js";
import { may } from "./session.js";

function remaining(until, policy) {
  const left = format.secondsBetween(new Date(), until);
  const outcome = { deny: "denied", fail: "the task fails" }[policy] ?? "decided";
  return left > 0 ? `${outcome} in ${format.duration(Math.ceil(left))} if nobody answers` : "its time is over";
}

export function questionBox(question, again, { open = false } = {}) {
  const answer = (verb, reason) => post(`/questions/${segment(question.question_id)}/${verb}`, reason ? { reason } : {}).finally(again);
  const asksForWords = question.tool === "AskUserQuestion";
  const buttons = question.state === "open" && may("approve") ? h(
    "div", { class: "inline" },
    asksForWords
      ? doing("Answer …", async () => {
        const words = await askFor({ title: question.summary, label: "Your answer", action: "Answer", needed: true });
        return words ? (await answer("approve", words), true) : false;
      }, { kind: "first", done: "Answered." })
      : doing("Approve", () => answer("approve"), { kind: "first", done: "Approved." }),
    doing("Deny …", async () => {
      const reason = await askFor({ title: "Deny this?", label: "Reason; the agent is told (optional)", action: "Deny", kind: "bad" });
      return reason === null ? false : (await answer("deny", reason), true);
    }, { kind: "bad", done: "Denied." }),
  ) : null;
  const told = question.state === "open" ? null : h("p", { class: "soft small" }, `${question.answered_by ? `${question.answered_by}, ` : ""}`, time(question.answered_at), question.reason ? `: ${question.reason}` : "");
  return h(
    "li", { "data-question": question.question_id },
    h("div", { class: "apart" }, h("div", { class: "inline" }, h("strong", {}, question.tool), pill(question.state)), h("span", { class: "faint small" }, time(question.asked_at))),
    h("p", {}, question.summary),
    question.asked_because ? h("p", { class: "small soft" }, question.asked_because) : null,
    h("details", { open }, h("summary", {}, "What it wants to do"), pretty(question.input)),
    h("p", { class: "small soft" }, question.worker, " · ", h("a", { href: `/tasks/${segment(question.task_id)}` }, question.task_id),
      question.state === "open" && question.expires_at ? ` · ${remaining(question.expires_at, question.policy)}` : ""),
    question.unreachable ? h("p", { class: "small", role: "status" }, question.unreachable) : null,
    told, buttons,
  );
}

/** The open questions of the team or of one task, in a card that is there only while there are some. */
export class QuestionList {
  constructor({ task = null, whenNone, onCount = () => {} }) {
    Object.assign(this, { task, whenNone, onCount });
    this.element = h("div", { "aria-live": "polite" });
    this.soon = gathered(() => this.read(), 200);
    this.read();
  }

  async read() {
    try {
      const found = await get(`/questions${query({ state: "open", task: this.task })}`);
      this.onCount(found.length);
      if (found.length) this.element.replaceChildren(card(found.length === 1 ? "A question for you" : `${found.length} questions for you`, {}, h("ul", { class: "needs" }, found.map((one) => questionBox(one, () => this.soon())))));
      else this.element.replaceChildren(...(this.whenNone ? [this.whenNone] : []));
    } catch (error) {
      this.element.replaceChildren(...(error.status === 404 ? [] : [trouble(error, () => this.read())]));
    }
  }

  events(events) {
    if (events.some((one) => String(one.event).startsWith("permission_") || one.event === "task_ended")) this.soon();
  }

  stop() {
    this.soon.stop();
  }
}
