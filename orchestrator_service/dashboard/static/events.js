// What an event means for a task that is shown, and how it reads in a list of what happened.

import * as format from "./format.js";

/** Change a task's summary as an event tells; returns whether anything of it is seen. */
export function apply(task, event) {
  const data = event.data ?? {};
  switch (event.event) {
    case "task_sent":
      Object.assign(task, { state: "sent", worker: event.worker, tries: data.try, sent_at: event.timestamp, started_at: null, waits_for: null });
      break;
    case "task_started":
      Object.assign(task, { state: "running", worker: event.worker ?? task.worker, started_at: event.timestamp, waits_for: null });
      break;
    case "task_ended":
      Object.assign(task, { state: data.state ?? task.state, ended_at: event.timestamp, error: data.error ?? null, cancel_requested_at: null, waits_for: null, stuck: false });
      break;
    case "task_cancelling":
      task.cancel_requested_at = event.timestamp;
      break;
    case "task_retrying":
      Object.assign(task, data.by_hand ? { state: "ready", ended_at: null, error: null } : { state: "scheduled" });
      break;
    case "task_withdrawn":
      task.state = "ready";
      break;
    case "task_stuck":
      task.stuck = true;
      break;
    case "task_unstuck":
      task.stuck = false;
      break;
    default:
      return false;
  }
  task.version = (task.version ?? 0) + 1;
  return true;
}

/** Return a task as far as its first event tells of it. */
export function begun(event) {
  return {
    task_id: event.task_id, title: event.data?.title ?? event.task_id, state: "ready", worker: null, route: {}, priority: 50, tries: 0, submitted_at: event.timestamp,
    started_at: null, ended_at: null, cost_usd: null, goal_id: event.goal_id, submitted_by: event.data?.by, error: null, version: 0,
  };
}

const WORDS = {
  task_submitted: "handed in", task_sent: "sent", task_started: "begun", task_cancelling: "is being cancelled", task_retrying: "will be tried again",
  task_withdrawn: "taken back", task_undelivered: "could not be delivered", task_sent_again: "sent again", worker_up: "is up", worker_down: "is down",
  worker_paused: "paused", worker_resumed: "resumed", goal_started: "begun", goal_ended: "ended", task_stuck: "seems stuck", task_unstuck: "goes on",
  permission_asked: "asks for a permission", permission_answered: "was answered", permission_withdrawn: "no longer asks", gate_closed: "Waits for a limit", gate_opened: "The wait is over",
  result_unreadable: "has a result that cannot be read", schedule_due: "handed in by its schedule",
};
const KINDS = {
  task_started: "run", task_sent: "run", task_stuck: "bad", worker_down: "bad", worker_up: "good", task_undelivered: "bad", permission_asked: "warn",
  gate_closed: "warn", gate_opened: "good", task_retrying: "warn", worker_paused: "warn", result_unreadable: "bad",
};

export function kindOfEvent(event) {
  const ended = { completed: "good", failed: "bad", timed_out: "bad" };
  if (event.event === "task_ended" || event.event === "goal_ended") return ended[event.data?.state] ?? "";
  return KINDS[event.event] ?? "";
}

export function words(event) {
  const data = event.data ?? {};
  if (event.event === "task_ended" || event.event === "goal_ended") return String(data.state ?? "ended").replace("timed_out", "timed out");
  return WORDS[event.event] ?? String(event.event).replaceAll("_", " ");
}

/** Return what an event says beside its name. */
export function details(event) {
  const data = event.data ?? {};
  switch (event.event) {
    case "task_submitted":
      return data.by ? `by ${data.by}` : "";
    case "task_sent":
      return `${event.worker ?? ""}${data.try > 1 ? `, try ${data.try}` : ""}`;
    case "task_ended":
      return data.error?.message ?? "";
    case "task_retrying":
      return data.by_hand ? "by hand" : `in ${format.duration(data.pause_seconds)}${data.error ? `: ${data.error}` : ""}`;
    case "task_stuck":
      return `${data.message ?? ""}${data.stage ? ` (${data.stage})` : ""}`;
    case "worker_down":
      return data.silent_after_seconds ? `no sign of life for ${format.duration(data.silent_after_seconds)}` : "";
    default:
      return data.message ?? data.reason ?? data.summary ?? data.why ?? data.text ?? data.tool ?? "";
  }
}
