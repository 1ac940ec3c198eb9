-- What every script on a task stream begins with. KEYS[1] is the stream, `codehornets:tasks:NAME`; all other keys are
-- named after it, with the stream's name as hash tag, so that a cluster keeps them in one slot:
--   {STREAM}:waiting       sorted set: entries that may be taken now; score -priority, member: the padded entry id
--   {STREAM}:later         sorted set: entries held back; score: when they are due, epoch milliseconds
--   {STREAM}:line:SESSION  sorted set: the waiting entries of a session, oldest first
--   {STREAM}:busy          hash: session -> the entry that runs in it now
--   {STREAM}:ids           hash: task id -> the entry that was taken under it and is not done
--   {STREAM}:note:ENTRY    string: what was remembered of an earlier attempt, JSON
--   {STREAM}:conversation:SESSION  string: the conversation that the session's tasks share
--   {STREAM}:cancel:ID     string: somebody asked for the end of this task
-- Every entry that was read is pending in the group, either with the instance that runs it or with the consumer
-- `waiting`. Its delivery count is the number of the attempt: the one that runs, or the one that comes next. The sorted
-- sets only give the order: what is lost from them is found again among the pending entries of `waiting`.

local GROUP = 'workers'
local WAITING = 'waiting'
local RANKS = {low = 25, normal = 50, high = 75, urgent = 100}
local stream = KEYS[1]
local base = '{' .. stream .. '}:'
local waiting_key, later_key, busy_key, ids_key = base .. 'waiting', base .. 'later', base .. 'busy', base .. 'ids'
local worker = ARGV[1]
local me = ARGV[2]
local ttl = ARGV[3] -- seconds until an index that nobody touches goes

-- Ids padded with zeros sort by age as plain text.
local ZEROS = string.rep('0', 20)

local function pad(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return string.sub(ZEROS .. ms, -20) .. string.sub(ZEROS .. seq, -20)
end

local function unpad(member)
  return string.match(string.sub(member, 1, 20), '^0*(%d+)$') .. '-' .. string.match(member, '^0*(%d+)$', 21)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Decodes as far as order and identity need it; whether the task is right is judged by who takes it.
local function facts(id, fields)
  local told = {rank = RANKS.normal}
  for index = 1, #fields, 2 do
    if fields[index] == 'task' then told.body = fields[index + 1] end
  end
  if not told.body then return told end
  local good, task = pcall(cjson.decode, told.body)
  if not good or type(task) ~= 'table' then return told end
  local priority = task.priority
  if type(priority) == 'string' then
    told.rank = RANKS[priority] or RANKS.normal
  elseif type(priority) == 'number' and priority == priority then
    told.rank = math.max(-2147483648, math.min(2147483648, priority))
  end
  if type(task.session) == 'string' and task.session ~= '' and #task.session <= 800 then
    told.session = task.session
  end
  if type(task.task_id) == 'string' and #task.task_id <= 128 then
    told.task_id = task.task_id
  else
    told.task_id = worker .. '-' .. id
  end
  return told
end

local function line_of(session)
  return base .. 'line:' .. session
end

local function entry_of(id)
  local found = redis.call('XRANGE', stream, id, id)
  if found[1] then return found[1][2] end
  return nil
end

-- Tells who holds a pending entry, for how long (ms), and its delivery count.
local function holder_of(id)
  local found = redis.call('XPENDING', stream, GROUP, id, id, 1)
  if found[1] then return found[1][2], found[1][3], found[1][4] end
  return nil
end

-- Makes the entry, which `waiting` holds, takable in its turn. Of a session only the oldest entry is.
local function index(id, told)
  local member = pad(id)
  if told.session then
    local line = line_of(told.session)
    redis.call('ZADD', line, 0, member)
    redis.call('EXPIRE', line, ttl)
    if redis.call('HEXISTS', busy_key, told.session) == 1 then return end
    local first = redis.call('ZRANGE', line, 0, 1)
    if first[1] ~= member then return end
    if first[2] then redis.call('ZREM', waiting_key, first[2]) end
  end
  redis.call('ZADD', waiting_key, -told.rank, member)
end

-- Lets the session's oldest entry have its turn, if the session is free.
local function promote(session)
  if redis.call('HEXISTS', busy_key, session) == 1 then return end
  local line = line_of(session)
  while true do
    local first = redis.call('ZRANGE', line, 0, 0)[1]
    if not first then return end
    local id = unpad(first)
    local fields = entry_of(id)
    if fields then
      if not redis.call('ZSCORE', later_key, first) then
        redis.call('ZADD', waiting_key, -facts(id, fields).rank, first)
      end
      return
    end
    redis.call('ZREM', line, first)
  end
end

local function leave_session(session, id)
  if redis.call('HGET', busy_key, session) == id then redis.call('HDEL', busy_key, session) end
end

-- Gives a pending entry back to `waiting`, to be attempt number `attempt` next, at once or when `due_ms` has come.
local function park(id, told, attempt, due_ms)
  redis.call('XCLAIM', stream, GROUP, WAITING, 0, id, 'RETRYCOUNT', attempt, 'JUSTID')
  if told.session then leave_session(told.session, id) end
  if due_ms > 0 then
    redis.call('ZADD', later_key, due_ms, pad(id))
    if told.session then
      redis.call('ZADD', line_of(told.session), 0, pad(id))
      redis.call('EXPIRE', line_of(told.session), ttl)
    end
  else
    index(id, told)
  end
  if told.session then promote(told.session) end
end

-- Removes all that is known of entries that are done: a list of {id, task_id, session}, empty text for none.
local function finish_all(done)
  if not done[1] then return end
  local entries, members, keys, task_ids = {}, {}, {}, {}
  for place, one in ipairs(done) do
    entries[place], members[place], keys[place] = one.id, pad(one.id), base .. 'note:' .. one.id
    task_ids[place] = one.task_id
  end
  redis.call('XACK', stream, GROUP, unpack(entries))
  redis.call('XDEL', stream, unpack(entries))
  redis.call('ZREM', waiting_key, unpack(members))
  redis.call('ZREM', later_key, unpack(members))
  local gone = {}
  for place, owner in ipairs(redis.call('HMGET', ids_key, unpack(task_ids))) do
    if owner == entries[place] then
      gone[#gone + 1] = task_ids[place]
      keys[#keys + 1] = base .. 'cancel:' .. task_ids[place]
    end
  end
  if gone[1] then redis.call('HDEL', ids_key, unpack(gone)) end
  redis.call('UNLINK', unpack(keys))
  for place, one in ipairs(done) do
    if one.session ~= '' then
      redis.call('ZREM', line_of(one.session), members[place])
      leave_session(one.session, one.id)
      promote(one.session)
    end
  end
end

local function keep_indexes()
  for _, key in ipairs({waiting_key, later_key, busy_key, ids_key}) do redis.call('EXPIRE', key, ttl) end
end

-- Who waits: how many entries may be taken or read now, and how many are not running at all. What is not read yet is
-- reckoned from the length of the stream, which errs where somebody acknowledges entries and leaves them there.
local function backlog(all_read)
  local pending = redis.call('XPENDING', stream, GROUP)
  local parked = 0
  for _, consumer in ipairs(pending[4] or {}) do
    if consumer[1] == WAITING then parked = tonumber(consumer[2]) end
  end
  local unread = all_read and 0 or redis.call('XLEN', stream) - pending[1]
  return math.max(0, unread) + redis.call('ZCARD', waiting_key), math.max(0, unread + parked)
end
