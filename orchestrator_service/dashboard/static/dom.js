// Elements are made from values, never from markup: what a model or a task says can only ever become text.

const SVG = "http://www.w3.org/2000/svg";
const URL_ATTRIBUTES = new Set(["href", "src"]);

function put(parent, child) {
  if (child === null || child === undefined || child === false) return;
  if (Array.isArray(child)) for (const one of child) put(parent, one);
  else parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
}

function dress(element, properties) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "value" || name === "checked") element[name] = value;
    else if (URL_ATTRIBUTES.has(name) && !isSafeAddress(value)) continue;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return element;
}

/** Tell whether an address may be followed: one of this page's own, or of the web or mail. */
export function isSafeAddress(address) {
  return /^(\/(?!\/)|#|https?:\/\/|mailto:)/i.test(String(address));
}

/** Make an element: `h("p", {class: "soft"}, "text", other)`. */
export function h(tag, properties, ...children) {
  const element = dress(document.createElement(tag), properties);
  put(element, children);
  return element;
}

/** Make an element of SVG. */
export function s(tag, properties, ...children) {
  const element = dress(document.createElementNS(SVG, tag), properties);
  put(element, children);
  return element;
}

/** Give an element other children; what has not changed in number and text is left alone. */
export function fill(element, ...children) {
  const made = document.createDocumentFragment();
  put(made, children);
  if (element.childNodes.length === made.childNodes.length) {
    let same = true;
    for (let at = 0; same && at < made.childNodes.length; at += 1) {
      same = element.childNodes[at].isEqualNode(made.childNodes[at]) && !made.childNodes[at].hasListeners;
    }
    if (same && !element.querySelector("button, a, input, select, textarea")) return element;
  }
  element.replaceChildren(made);
  return element;
}

/** Set an element's text, if it is another one. */
export function say(element, text) {
  const told = String(text);
  if (element.textContent !== told) element.textContent = told;
  return element;
}

const ICONS = {
  overview: "M3 3h6v8H3zM11 3h6v5h-6zM11 10h6v7h-6zM3 13h6v4H3z",
  tasks: "M7 5h10M7 10h10M7 15h10M3 5h.01M3 10h.01M3 15h.01",
  goals: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM10 13a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  inbox: "M3 11l2.5-7h9L17 11v5H3zM3 11h4l1.5 2h3L13 11h4",
  usage: "M4 16V9M8 16V4M12 16v-5M16 16V7",
};

/** Make one of the pictures of the navigation. */
export function icon(name) {
  const line = s("path", { d: ICONS[name], "stroke-width": "1.7", "stroke-linecap": "round", "stroke-linejoin": "round" });
  return s("svg", { viewBox: "0 0 20 20", fill: "none", stroke: "currentColor", "aria-hidden": "true" }, line);
}
