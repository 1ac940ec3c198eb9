-- Moments are seconds since 1970 (UTC) as REAL; what is JSON is TEXT.

CREATE TABLE tasks (
    seq            INTEGER PRIMARY KEY,     -- the order in which they were handed in
    task_id        TEXT NOT NULL UNIQUE,
    state          TEXT NOT NULL,           -- records.TaskState
    lane           TEXT NOT NULL,           -- for whom: a worker, or a role and skills; see scheduling/routing.py
    worker         TEXT,                    -- whom it was sent to last
    priority       INTEGER NOT NULL,
    title          TEXT,
    graph_id       TEXT,
    goal_id        TEXT,
    schedule       TEXT,
    parent         TEXT,
    depth          INTEGER NOT NULL DEFAULT 0,
    origin         TEXT NOT NULL,
    submitted_by   TEXT NOT NULL,
    on_failure     TEXT NOT NULL,
    session        TEXT,
    needs          INTEGER NOT NULL DEFAULT 0,
    unmet          INTEGER NOT NULL DEFAULT 0,
    tries          INTEGER NOT NULL DEFAULT 0,
    retries        INTEGER NOT NULL DEFAULT 0,   -- of them, counted against the retry policy
    wire_id        TEXT,                    -- the run that is open now
    reserve_usd    REAL,                    -- what a run of it sets aside
    submitted_at   REAL NOT NULL,
    ready_at       REAL,
    next_at        REAL,
    sent_at        REAL,
    started_at     REAL,
    ended_at       REAL,
    deadline       REAL,
    cancel_at      REAL,                    -- when its end was asked for
    cancel_status  TEXT,                    -- how it ends then: cancelled or timed_out
    cost_usd       REAL,
    error_kind     TEXT,
    error_message  TEXT
);
CREATE INDEX tasks_by_state ON tasks (state, seq);
CREATE INDEX tasks_by_worker ON tasks (worker, seq);
CREATE INDEX tasks_by_worker_state ON tasks (worker, state, seq);
CREATE INDEX tasks_by_graph ON tasks (graph_id, seq) WHERE graph_id IS NOT NULL;
CREATE INDEX tasks_by_goal ON tasks (goal_id, seq) WHERE goal_id IS NOT NULL;
CREATE INDEX tasks_by_schedule ON tasks (schedule, seq) WHERE schedule IS NOT NULL;
CREATE INDEX tasks_by_submitter ON tasks (submitted_by, seq);
CREATE INDEX tasks_by_submitter_state ON tasks (submitted_by, state, seq);
CREATE INDEX tasks_by_time ON tasks (submitted_at);
CREATE INDEX tasks_ready ON tasks (lane, priority DESC, seq) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (next_at) WHERE state = 'scheduled';
CREATE INDEX tasks_deadline ON tasks (deadline)
    WHERE deadline IS NOT NULL AND ended_at IS NULL AND cancel_at IS NULL;
CREATE INDEX tasks_cancelling ON tasks (cancel_at) WHERE cancel_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX tasks_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE orders (
    seq   INTEGER PRIMARY KEY REFERENCES tasks (seq) ON DELETE CASCADE,
    body  TEXT NOT NULL                     -- orders.TaskOrder as JSON; '{}' for a task that came another way
);

CREATE TABLE dependencies (
    seq    INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    needs  INTEGER NOT NULL,                -- seq of the task that is needed
    PRIMARY KEY (seq, needs)
) WITHOUT ROWID;
CREATE INDEX dependencies_needs ON dependencies (needs, seq);

CREATE TABLE runs (
    wire_id         TEXT PRIMARY KEY,
    seq             INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    number          INTEGER NOT NULL,
    worker          TEXT NOT NULL,
    transport       TEXT NOT NULL,
    sent_at         REAL NOT NULL,
    started_at      REAL,
    ended_at        REAL,
    status          TEXT,                   -- messages.TaskStatus, or 'withdrawn' or 'given_up'
    session_id      TEXT,
    attempts        INTEGER,
    reserved_usd    REAL,
    cost_usd        REAL,
    budget_day      TEXT NOT NULL,          -- the day it counts against
    error_kind      TEXT,
    error_message   TEXT,
    event_position  INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_of_task ON runs (seq, number);
CREATE INDEX runs_open ON runs (worker) WHERE ended_at IS NULL;
CREATE INDEX runs_by_day ON runs (budget_day, worker);

CREATE TABLE results (
    wire_id  TEXT PRIMARY KEY REFERENCES runs (wire_id) ON DELETE CASCADE,
    body     BLOB NOT NULL                  -- messages.Result as JSON, as the worker wrote it
);

CREATE TABLE sessions (
    session  TEXT PRIMARY KEY,
    worker   TEXT NOT NULL,                 -- where the conversation is
    used_at  REAL NOT NULL
);

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    event    TEXT NOT NULL,
    task_id  TEXT,
    worker   TEXT,
    goal_id  TEXT,
    data     TEXT NOT NULL
);
CREATE INDEX events_of_task ON events (task_id, seq) WHERE task_id IS NOT NULL;

CREATE TABLE workers (
    name       TEXT PRIMARY KEY,
    paused     INTEGER NOT NULL DEFAULT 0,
    paused_by  TEXT,
    paused_at  REAL,
    seen_at    REAL                          -- the last heartbeat
);

CREATE TABLE positions (
    name   TEXT PRIMARY KEY,                 -- a stream or directory
    value  TEXT NOT NULL                     -- how far it was read
);

CREATE TABLE idempotency (
    submitted_by  TEXT NOT NULL,
    key           TEXT NOT NULL,
    digest        TEXT NOT NULL,
    graph_id      TEXT,
    first_seq     INTEGER NOT NULL,
    last_seq      INTEGER NOT NULL,
    at            REAL NOT NULL,
    PRIMARY KEY (submitted_by, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE schedules (
    name          TEXT PRIMARY KEY,
    cron          TEXT NOT NULL,
    timezone      TEXT NOT NULL,
    task          TEXT NOT NULL,
    overlap       TEXT NOT NULL,
    missed        TEXT NOT NULL,
    paused        INTEGER NOT NULL,
    next_at       REAL,
    last_at       REAL,
    last_task_id  TEXT,
    last_outcome  TEXT,
    created_by    TEXT NOT NULL,
    created_at    REAL NOT NULL
);

CREATE TABLE goals (
    seq             INTEGER PRIMARY KEY,
    goal_id         TEXT NOT NULL UNIQUE,
    goal            TEXT NOT NULL,
    state           TEXT NOT NULL,           -- records.GoalState
    submitted_by    TEXT NOT NULL,
    submitted_at    REAL NOT NULL,
    ended_at        REAL,
    session_id      TEXT,
    output          TEXT,
    error_kind      TEXT,
    error_message   TEXT,
    max_tasks       INTEGER NOT NULL,
    max_depth       INTEGER NOT NULL,
    timeout         REAL NOT NULL,
    max_budget_usd  REAL,
    agent_cost_usd  REAL,
    model           TEXT,
    metadata        TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX goals_open ON goals (state) WHERE ended_at IS NULL;
