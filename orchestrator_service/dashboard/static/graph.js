// Tasks that need each other, drawn in layers: what can begin first stands left, and a line leads to what waits for it.

import { h, s } from "./dom.js";
import { kindOf, wordOf } from "./parts.js";

const WIDTH = 196;
const HEIGHT = 52;
const GAP_X = 64;
const GAP_Y = 16;

/** Give each node its layer: one more than the deepest of those it needs. A circle, which cannot be, ends somewhere. */
export function layersOf(nodes) {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const depth = new Map();
  const under = new Set();
  const find = (id) => {
    if (depth.has(id)) return depth.get(id);
    if (under.has(id)) return 0;
    under.add(id);
    const below = byId.get(id).needs.filter((one) => byId.has(one)).map(find);
    under.delete(id);
    const found = below.length ? Math.max(...below) + 1 : 0;
    depth.set(id, found);
    return found;
  };
  const layers = [];
  for (const node of nodes) (layers[find(node.id)] ??= []).push(node);
  const place = new Map();
  for (const [at, layer] of layers.entries()) {
    if (at > 0) {
      const middle = (node) => {
        const rows = node.needs.map((one) => place.get(one)).filter((row) => row !== undefined);
        return rows.length ? rows.reduce((sum, row) => sum + row, 0) / rows.length : 0;
      };
      layer.sort((one, other) => middle(one) - middle(other));
    }
    for (const [row, node] of layer.entries()) place.set(node.id, row);
  }
  return layers;
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Draw nodes `{id, title, state, worker, needs, href}`. */
export function graph(nodes, label) {
  const layers = layersOf(nodes);
  const tallest = Math.max(...layers.map((layer) => layer.length));
  const height = tallest * (HEIGHT + GAP_Y) - GAP_Y + 8;
  const width = layers.length * (WIDTH + GAP_X) - GAP_X + 8;
  const at = new Map();
  layers.forEach((layer, column) => {
    const top = (height - (layer.length * (HEIGHT + GAP_Y) - GAP_Y)) / 2;
    layer.forEach((node, row) => at.set(node.id, [4 + column * (WIDTH + GAP_X), top + row * (HEIGHT + GAP_Y)]));
  });
  const edges = nodes.flatMap((node) => node.needs.filter((id) => at.has(id)).map((id) => {
    const [fromX, fromY] = at.get(id);
    const [toX, toY] = at.get(node.id);
    const x1 = fromX + WIDTH, y1 = fromY + HEIGHT / 2, x2 = toX, y2 = toY + HEIGHT / 2, bend = Math.max(24, (x2 - x1) / 2);
    return s("path", { class: "edge", d: `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` });
  }));
  const boxes = layers.flat().map((node) => {
    const [x, y] = at.get(node.id);
    const words = `${node.title}: ${wordOf(node.state)}${node.worker ? `, ${node.worker}` : ""}`;
    return s(
      "a", { href: node.href, "aria-label": words, class: kindOf(node.state), transform: `translate(${x} ${y})`, "data-task": node.id },
      s("title", {}, words),
      s("rect", { class: "box", width: WIDTH, height: HEIGHT, rx: 9 }),
      s("rect", { class: "mark", width: 4, height: HEIGHT - 18, x: 8, y: 9, rx: 2 }),
      s("text", { x: 21, y: 22 }, cut(node.title, 24)),
      s("text", { class: "sub", x: 21, y: 39 }, cut(`${wordOf(node.state)}${node.worker ? ` · ${node.worker}` : ""}`, 28)),
    );
  });
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, edges, boxes);
  return h("div", { class: "graph" }, svg);
}
