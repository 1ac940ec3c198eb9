// Small components that several pages share.

import { h, s } from "./dom.js";
import * as format from "./format.js";

const KINDS = {
  running: "run", sent: "run", completed: "good", up: "good", idle: "good", busy: "run", failed: "bad", timed_out: "bad", down: "bad",
  cancelled: "", paused: "warn", parked: "warn", stuck: "bad", blocked: "", scheduled: "", ready: "", unknown: "", open: "warn",
  allowed: "good", denied: "bad", draining: "warn", starting: "run", stopped: "bad", expired: "", withdrawn: "",
};
const WORDS = { timed_out: "timed out", sent: "with worker", ready: "waiting", up: "up" };

export const kindOf = (state) => KINDS[state] ?? "";
export const wordOf = (state) => WORDS[state] ?? String(state ?? "unknown").replaceAll("_", " ");

export function pill(state, kind = kindOf(state)) {
  return h("span", { class: `pill ${kind}` }, h("i", { class: `dot ${kind}`, "aria-hidden": "true" }), wordOf(state));
}

export function time(value) {
  return value ? h("time", { datetime: value, title: format.full(value) }, format.when(value)) : "–";
}

export function card(title, { side, flush = false, id } = {}, ...children) {
  const head = title ? h("div", { class: "card-head" }, h("h2", { id }, title), side) : null;
  return h("section", { class: flush ? "card flush" : "card", "aria-labelledby": id }, head, children);
}

export function empty(title, ...words) {
  return h("div", { class: "empty" }, h("strong", {}, title), words);
}

export function loading(rows = 3) {
  const lines = Array.from({ length: rows }, (_, at) => h("div", { class: "skeleton", style: { width: `${92 - at * 14}%` } }));
  return h("div", { class: "stack", role: "status" }, h("span", { class: "hidden-text" }, "Loading"), lines);
}

export function trouble(error, again) {
  const button = again ? h("button", { class: "button tiny", type: "button", onclick: again }, "Try again") : null;
  return h("div", { class: "notice", role: "alert" }, h("span", { class: "grow" }, error.message), button);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A value as indented JSON, or as it is where it is text. */
export function pretty(value) {
  return h("pre", { tabindex: "0" }, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

let toasts = null;
export function toast(message, kind = "") {
  toasts ??= document.body.appendChild(h("div", { class: "toasts", role: "status", "aria-live": "polite" }));
  const made = h("div", { class: `toast ${kind}` }, message);
  toasts.append(made);
  setTimeout(() => made.remove(), kind === "bad" ? 9000 : 4500);
}

/** A button that does something which takes time, and tells how it went. */
export function doing(label, act, { kind = "", done } = {}) {
  const button = h("button", { class: `button ${kind}`, type: "button" }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const told = await act();
      if (told !== false && done) toast(typeof done === "function" ? done(told) : done);
    } catch (error) {
      toast(error.message, "bad");
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

/** Ask for a sentence; returns it, or null when it was not given. */
export function askFor({ title, label, action, kind = "first", needed = false }) {
  return new Promise((resolve) => {
    const input = h("textarea", { id: "ask-for", rows: "3", required: needed });
    const dialog = h("dialog", { "aria-labelledby": "ask-title" });
    const close = (value) => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    const form = h(
      "form", { method: "dialog" },
      h("h2", { id: "ask-title" }, title),
      h("div", { class: "field" }, h("label", { for: "ask-for" }, label), input),
      h("div", { class: "inline" }, h("button", { class: `button ${kind}`, type: "submit" }, action), h("button", { class: "button bare", type: "button", onclick: () => close(null) }, "Back")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close(input.value.trim());
    });
    dialog.addEventListener("cancel", () => close(null));
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Buttons of which one is chosen. */
export function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, word]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => {
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === buttons[options.findIndex(([name]) => name === value)]));
      choose(value);
    } }, word));
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

/** Call `act` soon, once for all calls that come meanwhile; at most once in `everyMs`. */
export function gathered(act, everyMs) {
  let timer = 0;
  let last = 0;
  const call = () => {
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      last = Date.now();
      act();
    }, Math.max(30, last + everyMs - Date.now()));
  };
  call.stop = () => clearTimeout(timer);
  return call;
}

export { h, s };
