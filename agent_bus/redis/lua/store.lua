-- Stores results, each once per task id. `results` is the stream of all results; by-id keys carry its name as hash tag.
--   {RESULTS}:by-id:ID     string: the result, JSON
-- Answers 1 when this result is the stored one, 0 when another was there first, or the error's text.

local function store_result(results, task_id, body, result_ttl, most)
  local key = '{' .. results .. '}:by-id:' .. task_id
  if not redis.call('SET', key, body, 'NX', 'EX', result_ttl) then
    -- The same result again: the answer to its first storing was lost on the way.
    if redis.call('GET', key) == body then return 1 end
    return 0
  end
  local added = redis.pcall('XADD', results, 'MAXLEN', '~', most, '*', 'result', body)
  if type(added) == 'table' and added.err then
    redis.call('DEL', key)
    return added.err
  end
  return 1
end
