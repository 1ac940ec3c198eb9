// What agents ask: open questions to answer, and those that were answered.

import { get } from "../api.js";
import { h } from "../dom.js";
import { card, choice, empty, gathered, loading, trouble } from "../parts.js";
import { questionBox } from "../questions.js";

export function inboxPage(_, { title }) {
  title("Inbox");
  let which = "open";
  let stopped = false;
  const body = h("div", { "aria-live": "polite" }, loading());
  const none = {
    open: () => empty("Nobody asks for anything", h("p", {}, "When an agent wants to do what its rules neither allow nor deny, its question stands here, and a person decides.")),
    answered: () => empty("Nothing was asked yet"),
  };
  async function read() {
    try {
      const found = await get(`/questions?state=${which}`);
      if (stopped) return;
      body.replaceChildren(found.length ? card("", {}, h("ul", { class: "needs" }, found.map((one) => questionBox(one, soon, { open: which === "open" })))) : card("", {}, none[which]()));
    } catch (error) {
      if (!stopped) body.replaceChildren(trouble(error, read));
    }
  }
  const soon = gathered(read, 150);
  read();
  const element = h(
    "div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", { class: "grow" }, "Inbox"), choice("Which questions", [["open", "Open"], ["answered", "Answered"]], which, (value) => {
      which = value;
      read();
    })),
    body,
  );
  return {
    element, back: read,
    events: (events) => {
      if (events.some((one) => String(one.event).startsWith("permission_") || one.event === "task_ended")) soon();
    },
    stop: () => {
      stopped = true;
      soon.stop();
    },
  };
}
