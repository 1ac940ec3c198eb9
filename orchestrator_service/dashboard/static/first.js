// Runs before all else: a page that is to be dark never flashes white, and what every page asks for first is on its way
// while the modules still come.
(() => {
  try {
    const kept = localStorage.getItem("codehornets-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // Without storage the system's choice holds.
  }
  comeBack();
  window.codehornetsEarly = new Map(["/session", ...(location.pathname === "/tasks" ? [first()] : [])].map((path) => [path, fetch(path, { headers: { Accept: "application/json" }, cache: "no-store" })]));
  for (const answer of window.codehornetsEarly.values()) answer.catch(() => {});

  function first() {
    const given = new URLSearchParams(location.search);
    const wanted = new URLSearchParams();
    const set = (name, value) => value && wanted.append(name, value);
    set("q", given.get("q"));
    set("state", given.get("state") === "open" ? "blocked,scheduled,ready,sent,running" : given.get("state"));
    set("worker", given.get("worker"));
    set("sort", given.get("sort") ?? "submitted");
    set("order", given.get("order") ?? "desc");
    set("limit", "60");
    set("count", "true");
    return `/api/v1/tasks?${wanted}`;
  }

  // A phone that changes its network while it loads, or an orchestrator that is started again, loses a file: without any one of
  // them there is no page, and nobody would know that a second look is all it needs.
  function comeBack() {
    const key = "codehornets-tries";
    let lost = false;
    addEventListener("error", (event) => {
      // What was only asked for ahead is asked for again by who needs it.
      if (lost || !event.target.matches?.("script, link[rel=stylesheet]")) return;
      lost = true;
      let tries = 0;
      try {
        tries = Number(sessionStorage.getItem(key)) || 0;
        sessionStorage.setItem(key, String(tries + 1));
      } catch {
        tries = 3;
      }
      setTimeout(() => location.reload(), Math.min(30_000, 500 * 2 ** tries));
    }, true);
    addEventListener("load", () => {
      if (lost) return;
      try {
        sessionStorage.removeItem(key);
      } catch {
        // Nothing was kept.
      }
    });
  }
})();
