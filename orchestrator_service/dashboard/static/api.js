// The API, asked by fetch: the session's cookie goes with it, a token never does.

/** Something that the orchestrator refused; the text is one sentence. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `The orchestrator answered with status ${status}.`);
    this.status = status;
    this.kind = String(problem?.type ?? "").replace("/problems/", "");
    this.fields = problem?.errors ?? [];
  }
}

/** Nobody answers. */
export class Away extends Error {
  constructor() {
    super("The orchestrator does not answer. This page tries again by itself.");
  }
}

let onUnauthorized = () => {};
export function whenUnauthorized(act) {
  onUnauthorized = act;
}

/** Take what first.js has asked for already, once. */
function early(path) {
  early.taken = window.codehornetsEarly?.get(path);
  window.codehornetsEarly?.delete(path);
  return early.taken !== undefined;
}

export async function ask(path, { method = "GET", body, signal, quiet = false } = {}) {
  const options = { method, signal, headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await (method === "GET" && early(path) ? early.taken : fetch(path, options));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
  if (answer.status === 204) return null;
  let told = null;
  try {
    told = await answer.json();
  } catch {
    if (answer.ok) throw new Away();
  }
  if (answer.ok) return told;
  const refused = new Refused(answer.status, told);
  if (answer.status === 401 && !quiet) onUnauthorized(refused);
  throw refused;
}

const API = "/api/v1";
export const get = (path, options) => ask(`${API}${path}`, options);
export const post = (path, body, options) => ask(`${API}${path}`, { method: "POST", body, ...options });
export const segment = (name) => encodeURIComponent(name);

/** Return a query string of what is given. */
export function query(values) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) found.append(name, String(value));
  }
  const text = found.toString();
  return text ? `?${text}` : "";
}
