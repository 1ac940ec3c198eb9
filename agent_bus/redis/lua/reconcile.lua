-- Compares a page of the entries that wait with the indexes, and indexes what is missing there.
-- ARGV: worker, instance, ttl, the entry after which the page begins ('-' for the first), how many entries.
-- Answers the last entry of the page ('' when it was the last page), and how many were missing.
local page = redis.call('XPENDING', stream, GROUP, ARGV[4], '+', ARGV[5], WAITING)
local missing = 0
for _, found in ipairs(page) do
  local id = found[1]
  local member = pad(id)
  if not redis.call('ZSCORE', waiting_key, member) and not redis.call('ZSCORE', later_key, member) then
    local fields = entry_of(id)
    if not fields then
      redis.call('XACK', stream, GROUP, id)
    else
      local told = facts(id, fields)
      local first = told.session and redis.call('ZRANGE', line_of(told.session), 0, 0)[1]
      local waits_its_turn = first and redis.call('ZSCORE', line_of(told.session), member)
        and (first ~= member or redis.call('HEXISTS', busy_key, told.session) == 1)
      if not waits_its_turn then
        index(id, told)
        missing = missing + 1
      end
    end
  end
end
-- A session whose running entry is gone (deleted by hand, say) must not stay busy for ever.
local busy = redis.call('HGETALL', busy_key)
for at = 1, #busy, 2 do
  local holder = holder_of(busy[at + 1])
  if not holder or holder == WAITING then
    redis.call('HDEL', busy_key, busy[at])
    promote(busy[at])
  end
end
keep_indexes()
if #page < tonumber(ARGV[5]) then return {'', missing} end
return {page[#page][1], missing}
