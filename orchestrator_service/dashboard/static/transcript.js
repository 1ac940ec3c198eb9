// What an agent says and does, as it comes; a tool's answer is shown with its call.

import { h } from "./dom.js";
import * as format from "./format.js";
import { pretty } from "./parts.js";

const MOST = 1500;

export class Transcript {
  constructor() {
    this.calls = new Map();
    this.number = 0;
    this.element = h("div", { class: "transcript", role: "log", "aria-label": "What the agent says and does", tabindex: "0" });
    this.element.hidden = true;
  }

  add(event) {
    const made = this.made(event);
    if (made === null) return;
    const atEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 60;
    this.element.hidden = false;
    this.element.append(made);
    this.number += 1;
    if (this.number > MOST) this.element.firstChild.remove();
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  made(event) {
    const data = event.data ?? {};
    const at = h("time", {}, event.timestamp ? format.clock(event.timestamp) : "");
    switch (event.event) {
      case "text":
      case "output":
        return h("div", { class: "said" }, h("div", { class: "who" }, h("span", {}, event.worker ?? "Agent"), at), h("div", { class: "plain-text" }, data.text ?? ""));
      case "tool_use": {
        const input = data.input ?? {};
        const only = Object.keys(input).length === 1 ? Object.values(input)[0] : null;
        const box = h("div", { class: "tool" }, h("div", { class: "who" }, h("span", { class: "name" }, data.name ?? "tool"), at), pretty(typeof only === "string" ? only : input));
        if (data.id) this.calls.set(data.id, box);
        return box;
      }
      case "tool_result": {
        const box = this.calls.get(data.id);
        const result = h("div", {}, h("div", { class: "who" }, data.is_error ? "Failed" : "Answer"), pretty(data.text ?? ""));
        if (box === undefined) return h("div", { class: data.is_error ? "tool failed" : "tool" }, result);
        this.calls.delete(data.id);
        if (data.is_error) box.classList.add("failed");
        box.append(result);
        return null;
      }
      case "session":
        return this.aside(at, `session ${data.session_id ?? ""}${data.model ? `, ${data.model}` : ""}`);
      case "prompt":
        return this.aside(at, `the agent has the prompt${data.attempt > 1 ? `, attempt ${data.attempt}` : ""}${data.resumed ? ", resumed" : ""}`);
      case "result":
        return this.aside(at, `turn over: ${data.subtype ?? ""}, ${data.num_turns ?? "?"} turns, ${format.money(data.cost_usd)}`);
      case "api_retry":
        return this.aside(at, `the API is asked again (status ${data.status ?? "none"}) in ${format.duration(data.wait_s)}`);
      case "rate_limit":
        return data.status === "allowed" ? null : this.aside(at, `limit ${data.kind ?? ""}: ${data.status ?? ""}`);
      case "hook":
        return null;
      default:
        return this.aside(at, `${String(event.event).replaceAll("_", " ")}${data.message ?? data.summary ?? data.text ? `: ${data.message ?? data.summary ?? data.text}` : ""}`);
    }
  }

  aside(at, words) {
    return h("div", { class: "aside" }, at, h("span", {}, words));
  }
}


