// Dark or light: the system's choice, or the one that was made here.

import { h, say } from "./dom.js";

const KEY = "codehornets-theme";
const NEXT = { auto: "dark", dark: "light", light: "auto" };
const WORDS = { auto: "Theme: system", dark: "Theme: dark", light: "Theme: light" };

export function themeSwitch() {
  let chosen = document.documentElement.dataset.theme ?? "auto";
  const button = h("button", { class: "button tiny", type: "button" });
  const show = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    say(button, WORDS[chosen]);
  };
  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    try {
      if (chosen === "auto") localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, chosen);
    } catch {
      // It holds until the page is closed.
    }
    show();
  });
  show();
  return button;
}
