// Logging in by a token, which is sent once and kept nowhere here.

import { ask } from "../api.js";
import { h, say } from "../dom.js";

export function loginPage(sentence, done) {
  const input = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "login-told" });
  const told = h("p", { class: sentence ? "soft small" : "hidden-text", id: "login-told", role: "status" }, sentence || "");
  const button = h("button", { class: "button first", type: "submit" }, "Log in");
  const form = h(
    "form", { class: "card" },
    h("h1", { class: "brand" }, h("img", { src: document.querySelector("link[rel=icon]").getAttribute("href"), alt: "" }), "codehornets"),
    told,
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), input),
    button,
    h("p", { class: "faint small" }, "One of API_TOKEN or API_TOKENS of the orchestrator."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await ask("/login", { method: "POST", body: { token: input.value }, quiet: true });
      input.value = "";
      await done();
    } catch (error) {
      input.value = "";
      told.className = "wrong";
      told.setAttribute("role", "alert");
      input.setAttribute("aria-invalid", "true");
      say(told, error.message);
      input.focus();
    } finally {
      button.disabled = false;
    }
  });
  queueMicrotask(() => input.focus());
  return h("main", { class: "login" }, form);
}
