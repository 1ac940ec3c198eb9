// Runs before the first paint, so that a page which is to be dark never flashes white.
(() => {
  try {
    const kept = localStorage.getItem("codehornets-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // Without storage the system's choice holds.
  }
})();
