-- One turn of an instance: ends what is done, then takes as many tasks as are wanted.
-- KEYS: stream, and the results stream where it may be touched in the same script (no cluster).
-- ARGV: worker, instance, ttl, wanted, most entries to read ahead, most bytes to read ahead, most entries indexed,
--   seconds a result is kept, how many results the stream keeps, the ended tasks as one JSON array of entry, task id,
--   session, entry …, then the result of each; an empty result was stored before, or there is none.
-- Answers: how many can be taken now, how many wait, ms until the next one is due or -1, one word a stored result,
--   and the tasks: entry, attempt, kind, body or fields, note, conversation, cancelled.
-- What can be asked or done for many entries at once is: most of a turn's time goes into the calls.

local wanted = tonumber(ARGV[4])
local most_entries, most_bytes, most_indexed = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local results = KEYS[2]

local stored = {}
local ended = ARGV[10] == '' and {} or cjson.decode(ARGV[10])
if ended[1] then
  local done = {}
  for place = 1, #ended, 3 do
    local at = (place + 2) / 3
    local body = ARGV[10 + at]
    local how = 1
    if body ~= '' then how = store_result(results, ended[place + 1], body, ARGV[8], ARGV[9]) end
    stored[at] = how
    if how == 0 or how == 1 then
      done[#done + 1] = {id = ended[place], task_id = ended[place + 1], session = ended[place + 2]}
    end
  end
  finish_all(done)
end

local taken = {}

local function hand_out(one, kind, note, conversation, cancelled)
  taken[#taken + 1] = {one.id, one.attempt, kind, one.told.body, note or '', conversation or '', cancelled}
end

-- Takes the session for the entry, which is pending with this instance; false when the entry went back into its line.
local function enter_session(one)
  local session = one.told.session
  local line = line_of(session)
  if redis.call('HEXISTS', busy_key, session) == 1 or (one.is_new and redis.call('ZCARD', line) > 0) then
    redis.call('XCLAIM', stream, GROUP, WAITING, 0, one.id, 'RETRYCOUNT', one.attempt, 'JUSTID')
    index(one.id, one.told)
    return false
  end
  redis.call('ZREM', line, pad(one.id))
  redis.call('HSET', busy_key, session, one.id)
  return true
end

-- Hands out entries that are pending with this instance: {id, attempt, fields, is_new, told}.
local function offer(entries)
  local tasks, ids, by_id, cancels, notes = {}, {}, {}, {}, {}
  for _, one in ipairs(entries) do
    one.told = one.told or facts(one.id, one.fields)
    if not one.told.body then
      taken[#taken + 1] = {one.id, one.attempt, 'no task', one.fields, '', '', 0}
    elseif not one.told.task_id then
      hand_out(one, 'task', nil, nil, 0)
    else
      tasks[#tasks + 1] = one
      ids[#ids + 1] = one.told.task_id
      cancels[#cancels + 1] = base .. 'cancel:' .. one.told.task_id
      if results then by_id[#by_id + 1] = '{' .. results .. '}:by-id:' .. one.told.task_id end
      if not one.is_new then notes[#notes + 1] = base .. 'note:' .. one.id end
    end
  end
  if not tasks[1] then return end
  local owners = redis.call('HMGET', ids_key, unpack(ids))
  local any_answered = results and redis.call('EXISTS', unpack(by_id)) > 0
  local any_cancelled = redis.call('EXISTS', unpack(cancels)) > 0
  local any_note = notes[1] and redis.call('EXISTS', unpack(notes)) > 0
  local mine, here = {}, {}
  for place, one in ipairs(tasks) do
    local told = one.told
    local other = here[told.task_id] or owners[place]
    if other and other ~= one.id and entry_of(other) then
      hand_out(one, 'duplicate', nil, nil, 0)
    elseif any_answered and redis.call('EXISTS', by_id[place]) == 1 then
      if one.attempt > 1 then
        -- Its owner died between storing the result and letting go.
        finish_all({{id = one.id, task_id = told.task_id, session = told.session or ''}})
      else
        hand_out(one, 'answered', nil, nil, 0)
      end
    elseif not told.session or enter_session(one) then
      local conversation = told.session and redis.call('GET', base .. 'conversation:' .. told.session)
      local note = any_note and redis.call('GET', base .. 'note:' .. one.id)
      local cancelled = any_cancelled and redis.call('EXISTS', cancels[place]) or 0
      here[told.task_id] = one.id
      mine[#mine + 1] = told.task_id
      mine[#mine + 1] = one.id
      hand_out(one, 'task', note, conversation, cancelled)
    end
  end
  if mine[1] then redis.call('HSET', ids_key, unpack(mine)) end
end

local all_read = false

local function read(consumer, count)
  local read_now = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  local entries = read_now and read_now[1][2] or {}
  all_read = #entries < count
  return entries
end

-- Sorts new entries in; stops at the bounds, so that one turn never holds up Redis for long.
local function read_ahead()
  local entries, bytes = 0, 0
  local room = most_indexed - redis.call('ZCARD', waiting_key)
  while entries < math.min(most_entries, room) and bytes < most_bytes do
    local batch = read(WAITING, 32)
    local plain = {}
    for _, entry in ipairs(batch) do
      local told = facts(entry[1], entry[2])
      bytes = bytes + (told.body and #told.body or 0)
      if told.session then
        index(entry[1], told)
      else
        plain[#plain + 1] = -told.rank
        plain[#plain + 1] = pad(entry[1])
      end
    end
    if plain[1] then redis.call('ZADD', waiting_key, unpack(plain)) end
    entries = entries + #batch
    if all_read then return end
  end
end

-- Takes the best from the index: those that are on their first attempt in one call, the others one by one.
local function take_waiting()
  local looks = 4 * wanted
  while #taken < wanted and looks > 0 do
    local best = redis.call('ZPOPMIN', waiting_key, math.min(wanted - #taken, looks))
    if not best[1] then return end
    local ids = {}
    for place = 1, #best, 2 do ids[#ids + 1] = unpad(best[place]) end
    looks = looks - #ids
    -- Mostly they lie side by side, and one question answers for all.
    local attempts = {}
    local lowest, highest = best[1], best[1]
    for place = 3, #best, 2 do
      if best[place] < lowest then lowest = best[place] end
      if best[place] > highest then highest = best[place] end
    end
    local near = redis.call('XPENDING', stream, GROUP, unpad(lowest), unpad(highest), #ids, WAITING)
    for _, found in ipairs(near) do attempts[found[1]] = found[4] end
    local first, places, chosen = {}, {}, {}
    for _, id in ipairs(ids) do
      local attempt = attempts[id]
      if not attempt then
        local holder, _, count = holder_of(id)
        attempt = holder == WAITING and count or nil
      end
      if attempt then
        local one = {id = id, attempt = attempt, is_new = false}
        chosen[#chosen + 1] = one
        if attempt == 1 then
          first[#first + 1] = id
          places[id] = one
        else
          local entry = redis.call('XCLAIM', stream, GROUP, me, 0, id, 'RETRYCOUNT', attempt)[1]
          one.fields = entry and entry[2]
        end
      end
    end
    if first[1] then
      local command = {stream, GROUP, me, 0}
      for _, id in ipairs(first) do command[#command + 1] = id end
      command[#command + 1] = 'RETRYCOUNT'
      command[#command + 1] = 1
      for _, entry in ipairs(redis.call('XCLAIM', unpack(command))) do
        if entry then places[entry[1]].fields = entry[2] end
      end
    end
    local there = {}
    for _, one in ipairs(chosen) do
      if one.fields then there[#there + 1] = one end
    end
    offer(there)
  end
end

local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', later_key, '-inf', now, 'LIMIT', 0, 100)
for _, member in ipairs(due) do
  redis.call('ZREM', later_key, member)
  local id = unpad(member)
  local fields = entry_of(id)
  if fields and holder_of(id) == WAITING then index(id, facts(id, fields)) end
end

if wanted > 0 then
  if redis.call('ZCARD', waiting_key) == 0 then
    local fresh = read(me, wanted + 1)
    if #fresh <= wanted then
      -- Nothing to choose from: all that there is goes straight to this instance.
      local entries = {}
      for _, entry in ipairs(fresh) do
        entries[#entries + 1] = {id = entry[1], attempt = 1, fields = entry[2], is_new = true}
      end
      offer(entries)
    else
      for _, entry in ipairs(fresh) do
        redis.call('XCLAIM', stream, GROUP, WAITING, 0, entry[1], 'RETRYCOUNT', 1, 'JUSTID')
        index(entry[1], facts(entry[1], entry[2]))
      end
    end
  end
  if redis.call('ZCARD', waiting_key) > 0 then
    read_ahead()
    take_waiting()
  end
  keep_indexes()
end

local next_due = redis.call('ZRANGE', later_key, 0, 0, 'WITHSCORES')
local can_be_taken, not_running = backlog(all_read)
local wait_ms = -1
if next_due[2] then wait_ms = math.max(0, next_due[2] - now) end
return {can_be_taken, not_running, wait_ms, stored, taken}
