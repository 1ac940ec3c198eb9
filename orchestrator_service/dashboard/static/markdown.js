// Markdown that the server has parsed, as elements: only those of a list, and only links that lead to the web or to mail.

import { h, isSafeAddress } from "./dom.js";

const TAGS = new Set([
  ..."p ul ol li blockquote em strong s table thead tbody tr th td code pre br hr span".split(" "),
  ..."h1 h2 h3 h4 h5 h6".split(" "),
]);
const DEEPEST = 60;

function build(node, depth) {
  if (typeof node === "string") return document.createTextNode(node);
  if (depth > DEEPEST || node === null || typeof node !== "object") return document.createTextNode("…");
  const children = (node.children ?? []).map((child) => build(child, depth + 1));
  if (node.tag === "a") {
    const outside = /^(https?:|mailto:)/i.test(node.href) && isSafeAddress(node.href);
    return outside ? h("a", { href: node.href, rel: "noopener noreferrer nofollow", target: "_blank" }, children) : h("span", {}, children);
  }
  if (!TAGS.has(node.tag)) return h("span", {}, children);
  // The page has one heading of the first rank; those of a text come below its own sections.
  const heading = /^h([1-6])$/.exec(node.tag);
  const tag = heading ? `h${Math.min(6, Number(heading[1]) + 2)}` : node.tag;
  const properties = tag === "pre" ? { tabindex: "0" } : {};
  if (node.tag === "ol" && Number.isInteger(node.start)) properties.start = node.start;
  return h(tag, properties, children);
}

/** Return elements for a tree of `/rendered`. */
export function prose(nodes) {
  return h("div", { class: "prose" }, (nodes ?? []).map((node) => build(node, 0)));
}
