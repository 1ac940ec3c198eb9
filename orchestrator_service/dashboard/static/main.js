// The page's beginning: who looks, which page, and what stays while pages change.

import { Refused, ask, get, whenUnauthorized } from "./api.js";
import { fill, h, icon, say } from "./dom.js";
import * as format from "./format.js";
import { live } from "./live.js";
import { empty, gathered, toast, trouble } from "./parts.js";
import { session } from "./session.js";
import { themeSwitch } from "./theme.js";
import { goalPage } from "./pages/goal.js";
import { goalsPage } from "./pages/goals.js";
import { inboxPage } from "./pages/inbox.js";
import { loginPage } from "./pages/login.js";
import { overviewPage } from "./pages/overview.js";
import { taskPage } from "./pages/task.js";
import { tasksPage } from "./pages/tasks.js";
import { usagePage } from "./pages/usage.js";

const ROUTES = [
  [/^\/$/, "overview", overviewPage],
  [/^\/tasks$/, "tasks", tasksPage],
  [/^\/tasks\/([^/]+)$/, "tasks", taskPage],
  [/^\/goals$/, "goals", goalsPage],
  [/^\/goals\/([^/]+)$/, "goals", goalPage],
  [/^\/inbox$/, "inbox", inboxPage],
  [/^\/usage$/, "usage", usagePage],
];
const NAV = [["/", "overview", "Overview"], ["/tasks", "tasks", "Tasks"], ["/goals", "goals", "Goals"], ["/inbox", "inbox", "Inbox"], ["/usage", "usage", "Usage"]];

const app = document.getElementById("app");
const version = document.body.dataset.version;
let current = null;
let frame = null;
let wanted = null;
let leaving = false;

function go(path, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"]({}, "", path);
  show();
}

function makeFrame() {
  const links = new Map();
  const badge = h("span", { class: "badge", hidden: true });
  const nav = h("nav", { class: "nav", "aria-label": "Pages" }, NAV.map(([path, name, word]) => {
    const link = h("a", { href: path }, icon(name), h("span", {}, word), name === "inbox" ? badge : null);
    links.set(name, link);
    return link;
  }));
  const dot = h("i", { class: "dot", "aria-hidden": "true" });
  const state = h("span", { class: "small soft who-am-i" }, "Connecting …");
  const out = session.login ? h("button", { class: "button tiny bare", type: "button", onclick: leave }, "Log out") : null;
  const who = h("span", { class: "small faint cut who-am-i" }, session.login ? `${session.name} (${session.role})` : "");
  const banner = h("div", { class: "banner", role: "status", "aria-live": "polite", hidden: true });
  const main = h("main", { class: "main", id: "main", tabindex: "-1" });
  const side = h(
    "header", { class: "side" },
    h("a", { class: "brand", href: "/" }, h("img", { src: document.querySelector("link[rel=icon]").getAttribute("href"), alt: "" }), "codehornets"),
    nav,
    h("div", { class: "side-end" }, h("div", { class: "inline" }, dot, state), who, h("div", { class: "inline" }, themeSwitch(), out)),
  );
  const element = h("div", {}, h("a", { class: "skip", href: "#main" }, "To the content"), h("div", { class: "frame" }, side, h("div", { class: "grow" }, banner, main)));
  return { element, main, links, badge, dot, state, banner };
}

function showConnection(detail = {}) {
  if (frame === null) return;
  const lost = live.state === "lost";
  frame.dot.className = `dot ${lost ? "bad" : live.state === "open" ? "good" : ""}`;
  say(frame.state, lost ? "Connection lost" : live.state === "open" ? "Live" : "Connecting …");
  frame.banner.hidden = !lost;
  if (lost) {
    const again = h("button", { class: "button tiny", type: "button", onclick: () => live.again() }, "Try now");
    fill(frame.banner, `Connection lost. What you see is from ${format.clock(live.lostAt)}; this page comes back by itself.`, again);
  } else if (detail.version !== undefined && detail.version !== version) {
    frame.banner.hidden = false;
    fill(frame.banner, `The orchestrator is now version ${detail.version}.`, h("button", { class: "button tiny", type: "button", onclick: () => location.reload() }, "Reload"));
  }
  if (detail.back) {
    toast("Connected again; nothing was missed.");
    current?.back?.();
    countQuestions();
  }
}

const countQuestions = gathered(async () => {
  try {
    const open = await get("/questions?state=open", { quiet: true });
    if (frame === null) return;
    frame.badge.hidden = open.length === 0;
    say(frame.badge, open.length);
    frame.badge.setAttribute("aria-label", `${open.length} open`);
  } catch (error) {
    if (frame === null || !(error instanceof Refused)) return;
    frame.badge.hidden = true;
  }
}, 1000);

function show() {
  const path = location.pathname;
  const found = ROUTES.map(([pattern, name, page]) => [pattern.exec(path), name, page]).find(([match]) => match !== null);
  current?.stop?.();
  current = null;
  for (const [name, link] of frame.links) {
    if (name === found?.[1]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (found === undefined) {
    document.title = "Not found · codehornets";
    frame.main.replaceChildren(h("div", { class: "page" }, h("h1", {}, "There is no such page"), empty("Nothing is here", h("p", {}, "The address may be mistyped, or it is of something that is gone."), h("a", { class: "button", href: "/" }, "To the overview"))));
    return;
  }
  let argument;
  try {
    argument = found[0][1] === undefined ? undefined : decodeURIComponent(found[0][1]);
  } catch {
    argument = found[0][1];
  }
  current = found[2](argument, { go, title: (words) => { document.title = `${words} · codehornets`; } });
  frame.main.replaceChildren(current.element);
  scrollTo(0, 0);
}

function welcome(sentence) {
  // What was asked for before is the answer to somebody else.
  window.codehornetsEarly?.clear();
  live.stop();
  current?.stop?.();
  current = null;
  if (location.pathname !== "/login") {
    wanted = location.pathname + location.search;
    history.replaceState({}, "", "/login");
  }
  document.title = "Log in · codehornets";
  app.replaceChildren(loginPage(sentence, async () => {
    history.replaceState({}, "", wanted ?? "/");
    wanted = null;
    await begin();
  }));
}

async function leave() {
  // From here on a refusal is what was asked for: the channel may hear of the session's end before this request is answered.
  leaving = true;
  try {
    await ask("/logout", { method: "POST", quiet: true });
  } catch (error) {
    toast(error.message, "bad");
    return;
  } finally {
    leaving = false;
  }
  frame = null;
  wanted = null;
  history.replaceState({}, "", "/login");
  welcome("You are logged out.");
}

async function begin() {
  try {
    Object.assign(session, await ask("/session", { quiet: true }));
  } catch (error) {
    if (error.status === 401) welcome(error.message.startsWith("The session") ? error.message : "");
    else {
      app.replaceChildren(h("main", { class: "main" }, h("h1", {}, "codehornets"), trouble(error, begin)));
      setTimeout(begin, 3000);
    }
    return;
  }
  if (location.pathname === "/login") history.replaceState({}, "", "/");
  frame = makeFrame();
  app.replaceChildren(frame.element);
  live.start();
  showConnection();
  show();
  countQuestions();
}

whenUnauthorized((refused) => {
  if (frame === null || leaving) return;
  frame = null;
  // Of tokens and headers only programs want to hear.
  welcome(refused.message.startsWith("The session") ? refused.message : "The session is over; log in again.");
});
live.addEventListener("state", (event) => showConnection(event.detail));
live.addEventListener("events", (event) => {
  if (event.detail.some((one) => String(one.event).startsWith("permission_"))) countQuestions();
  current?.events?.(event.detail);
});
addEventListener("popstate", () => {
  if (frame !== null) show();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || link.target) return;
  const href = link.getAttribute("href");
  if (frame === null || !href.startsWith("/") || href.startsWith("/docs")) return;
  event.preventDefault();
  if (href !== location.pathname + location.search) go(href);
});
begin();
