-- Renews the leases of what an instance holds. ARGV: worker, instance, ttl, ms after which an entry that is pending
-- with this instance and not named here counts as never received, then (entry, attempt, task id, session) for each.
-- Answers the entries that are lost to others, and how many strays went back.
local held, lost = {}, {}
for at = 5, #ARGV, 4 do
  local id, attempt, task_id, session = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  held[id] = true
  local holder = holder_of(id)
  if holder == me then
    redis.call('XCLAIM', stream, GROUP, me, 0, id, 'JUSTID')
  elseif holder == WAITING then
    -- It was taken for dead and nobody has begun its task anew: it stays here.
    local member = pad(id)
    local busy = session ~= '' and redis.call('HGET', busy_key, session)
    if busy and busy ~= id then
      lost[#lost + 1] = id
    else
      redis.call('XCLAIM', stream, GROUP, me, 0, id, 'RETRYCOUNT', attempt, 'JUSTID')
      redis.call('ZREM', waiting_key, member)
      redis.call('ZREM', later_key, member)
      redis.call('HSET', ids_key, task_id, id)
      if session ~= '' then
        redis.call('ZREM', line_of(session), member)
        redis.call('HSET', busy_key, session, id)
        local first = redis.call('ZRANGE', line_of(session), 0, 0)[1]
        if first then redis.call('ZREM', waiting_key, first) end
      end
    end
  else
    lost[#lost + 1] = id
  end
  redis.call('EXPIRE', base .. 'note:' .. id, ttl)
end
local strays = 0
for _, found in ipairs(redis.call('XPENDING', stream, GROUP, 'IDLE', ARGV[4], '-', '+', 1000, me)) do
  if not held[found[1]] then
    local fields = entry_of(found[1])
    if fields then
      park(found[1], facts(found[1], fields), found[4], 0)
      strays = strays + 1
    else
      redis.call('XACK', stream, GROUP, found[1])
    end
  end
end
keep_indexes()
return {lost, strays}
