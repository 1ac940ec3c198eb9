-- What was used: sums by day, so that a question costs the same however many tasks there were, and outlives them.

ALTER TABLE runs ADD COLUMN notional INTEGER;              -- 1: a subscription covers its dollars
ALTER TABLE runs ADD COLUMN model TEXT;
ALTER TABLE runs ADD COLUMN input_tokens INTEGER;
ALTER TABLE runs ADD COLUMN output_tokens INTEGER;
ALTER TABLE runs ADD COLUMN cache_read_tokens INTEGER;
ALTER TABLE runs ADD COLUMN cache_creation_tokens INTEGER;
ALTER TABLE runs ADD COLUMN counted INTEGER;               -- 1: in the sums as the first try of its task, 0: as a later
CREATE INDEX runs_costs_by_day ON runs (budget_day, seq, cost_usd) WHERE cost_usd IS NOT NULL;
CREATE INDEX runs_costs_ended ON runs (ended_at, cost_usd, notional) WHERE cost_usd IS NOT NULL;

ALTER TABLE tasks ADD COLUMN notional_usd REAL;            -- the part of cost_usd that a subscription covers
CREATE INDEX tasks_by_cost ON tasks (cost_usd, seq) WHERE cost_usd IS NOT NULL;

ALTER TABLE goals ADD COLUMN agent_notional_usd REAL;      -- the part of agent_cost_usd that a subscription covers

CREATE TABLE usage (
    day                    TEXT NOT NULL,                  -- as the budget counts: when it was handed out
    worker                 TEXT NOT NULL,                  -- 'orchestrator' for the agents of goals
    goal_id                TEXT NOT NULL,                  -- '' for none
    model                  TEXT NOT NULL,                  -- '' where it is not known
    tasks                  INTEGER NOT NULL DEFAULT 0,     -- each counted once, where its first try is
    tries                  INTEGER NOT NULL DEFAULT 0,
    cost_usd               REAL NOT NULL DEFAULT 0,
    notional_cost_usd      REAL NOT NULL DEFAULT 0,        -- the part of cost_usd that a subscription covers
    input_tokens           INTEGER NOT NULL DEFAULT 0,
    output_tokens          INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens      INTEGER NOT NULL DEFAULT 0,
    cache_creation_tokens  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, worker, goal_id, model)
) WITHOUT ROWID;

CREATE TABLE goal_turns (                                  -- what the agents of goals cost, turn by turn
    seq       INTEGER PRIMARY KEY,
    at        REAL NOT NULL,
    goal_id   TEXT NOT NULL,
    cost_usd  REAL NOT NULL,
    notional  INTEGER
);
CREATE INDEX goal_turns_at ON goal_turns (at);

CREATE TABLE samples (                                     -- how much there was to do; a row where it changed
    at       INTEGER PRIMARY KEY,
    queued   INTEGER NOT NULL,                             -- ready, or sent and not begun
    running  INTEGER NOT NULL
);

-- What is there already is counted: results tell their tokens, and nothing tells what was notional.
UPDATE runs SET
    input_tokens = json_extract(found.body, '$.usage.input_tokens'),
    output_tokens = json_extract(found.body, '$.usage.output_tokens'),
    cache_read_tokens = json_extract(found.body, '$.usage.cache_read_input_tokens'),
    cache_creation_tokens = json_extract(found.body, '$.usage.cache_creation_input_tokens')
FROM (SELECT wire_id AS id, CAST(body AS TEXT) AS body FROM results WHERE json_valid(CAST(body AS TEXT))) AS found
WHERE runs.wire_id = found.id;
UPDATE runs SET counted = (number = (
    SELECT MIN(o.number) FROM runs AS o WHERE o.seq = runs.seq AND o.ended_at IS NOT NULL AND o.status <> 'withdrawn'
)) WHERE ended_at IS NOT NULL AND status <> 'withdrawn';
INSERT INTO usage
SELECT r.budget_day, r.worker, COALESCE(t.goal_id, ''), '', SUM(r.counted), COUNT(*), SUM(COALESCE(r.cost_usd, 0)), 0,
    SUM(COALESCE(r.input_tokens, 0)), SUM(COALESCE(r.output_tokens, 0)),
    SUM(COALESCE(r.cache_read_tokens, 0)), SUM(COALESCE(r.cache_creation_tokens, 0))
FROM runs AS r JOIN tasks AS t ON t.seq = r.seq WHERE r.counted IS NOT NULL GROUP BY 1, 2, 3;
INSERT INTO usage (day, worker, goal_id, model, cost_usd)
SELECT date(submitted_at, 'unixepoch'), 'orchestrator', goal_id, COALESCE(model, ''), agent_cost_usd
FROM goals WHERE agent_cost_usd IS NOT NULL;
INSERT INTO goal_turns (at, goal_id, cost_usd)
SELECT COALESCE(ended_at, submitted_at), goal_id, agent_cost_usd FROM goals WHERE agent_cost_usd IS NOT NULL;
