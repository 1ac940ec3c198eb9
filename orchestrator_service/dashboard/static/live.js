// The live channel: one WebSocket, which comes back by itself and goes on behind the last event that was seen.

import { Away, ask } from "./api.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 10_000;
const SESSION_OVER = 4401;

export class Live extends EventTarget {
  constructor() {
    super();
    this.state = "new";
    this.cursor = null;
    this.lostAt = null;
    this.watched = null;
    this.socket = null;
    this.waitMs = FIRST_WAIT_MS;
    this.timer = 0;
    this.generation = 0;
    addEventListener("online", () => this.again());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.again();
    });
  }

  start() {
    if (this.socket !== null) return;
    const generation = (this.generation += 1);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const after = this.cursor === null ? "" : `?after=${encodeURIComponent(this.cursor)}`;
    const socket = new WebSocket(`${scheme}//${location.host}/api/v1/live${after}`);
    this.socket = socket;
    socket.onmessage = (message) => {
      if (generation === this.generation) this.take(JSON.parse(message.data));
    };
    socket.onclose = (closed) => {
      if (generation === this.generation) this.lost(closed.code);
    };
  }

  stop() {
    this.generation += 1;
    clearTimeout(this.timer);
    this.timer = 0;
    this.socket?.close();
    this.socket = null;
    this.cursor = null;
    this.state = "new";
  }

  /** Try at once, if nothing is open. */
  again() {
    if (this.socket !== null || this.timer === 0) return;
    clearTimeout(this.timer);
    this.timer = 0;
    this.start();
  }

  /** Follow one task: its history from `after` on, then what its agent does. */
  watch(taskId, listener) {
    this.watched = { taskId, listener, after: null };
    this.wish();
  }

  unwatch(taskId) {
    if (this.watched?.taskId !== taskId) return;
    this.watched = null;
    this.tell({ watch: null });
  }

  wish() {
    if (this.watched !== null) this.tell({ watch: this.watched.taskId, after: this.watched.after });
  }

  tell(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  take(message) {
    if (message.type === "hello") {
      const back = this.state === "lost";
      this.state = "open";
      this.lostAt = null;
      this.waitMs = FIRST_WAIT_MS;
      this.cursor ??= message.at;
      this.wish();
      this.emit("state", { back, version: message.version });
    } else if (message.type === "events") {
      for (const one of message.events) if (one.id) this.cursor = one.id;
      this.emit("events", message.events.map((one) => ({ ...one.data, id: one.id })));
    } else if (this.watched !== null && message.task_id === this.watched.taskId) {
      if (message.type === "task") for (const one of message.events) if (one.id) this.watched.after = one.id;
      this.watched.listener(message);
    }
  }

  async lost(code) {
    this.socket = null;
    if (this.state !== "lost") {
      this.state = "lost";
      this.lostAt = new Date();
      if (code !== SESSION_OVER) this.emit("state", { back: false });
    }
    const generation = this.generation;
    try {
      // A browser does not tell a page why a channel was refused; this does.
      await ask("/session");
    } catch (error) {
      if (!(error instanceof Away) && error.status === 401) {
        this.stop();
        return;
      }
    }
    if (generation !== this.generation || this.socket !== null) return;
    const waitMs = this.waitMs * (0.75 + 0.5 * Math.random());
    this.waitMs = Math.min(LONGEST_WAIT_MS, this.waitMs * 1.7);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.start();
    }, waitMs);
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export const live = new Live();
