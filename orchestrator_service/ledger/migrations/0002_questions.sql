-- Questions of agents to people, and who answered what, when and why. They are kept as long as their tasks are, and for
-- as long as nobody prunes: no task's end takes them away.
CREATE TABLE questions (
    question_id    TEXT PRIMARY KEY,
    wire_id        TEXT NOT NULL,            -- the run that asks
    task_id        TEXT NOT NULL,            -- the task behind it; the same as wire_id where the ledger knows none
    worker         TEXT NOT NULL,
    transport      TEXT NOT NULL,
    tool           TEXT NOT NULL,
    input          TEXT NOT NULL,            -- JSON, long texts cut
    summary        TEXT NOT NULL,
    asked_because  TEXT,
    policy         TEXT NOT NULL,            -- questions.OnQuestion
    asked_at       REAL NOT NULL,
    expires_at     REAL,
    state          TEXT NOT NULL,            -- questions.QuestionState
    decision       TEXT,                     -- questions.Decision
    answered_by    TEXT,
    answered_at    REAL,                     -- for one that was withdrawn: when that was
    reason         TEXT
) WITHOUT ROWID;
CREATE INDEX questions_of_task ON questions (task_id);
CREATE INDEX questions_by_time ON questions (asked_at);
CREATE INDEX questions_open ON questions (worker) WHERE state = 'open';
