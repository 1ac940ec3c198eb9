-- Gives the entries of dead instances back, their attempt spent, and forgets instances that are long gone.
-- ARGV: worker, instance, ttl, lease in ms, ms after which an instance without entries is forgotten, most entries,
--   the bell's channel. Answers how many entries went back. The work grows with the dead, not with the backlog.
local left = tonumber(ARGV[6])
local given = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
  local consumer = {}
  for at = 1, #row, 2 do consumer[row[at]] = row[at + 1] end
  if consumer.name ~= WAITING and consumer.name ~= me then
    if consumer.pending > 0 and left > 0 then
      local dead = redis.call('XPENDING', stream, GROUP, 'IDLE', ARGV[4], '-', '+', left, consumer.name)
      for _, found in ipairs(dead) do
        left = left - 1
        local fields = entry_of(found[1])
        if fields then
          park(found[1], facts(found[1], fields), found[4] + 1, 0)
          given = given + 1
        else
          redis.call('XACK', stream, GROUP, found[1])
        end
      end
    elseif consumer.pending == 0 and consumer.idle > tonumber(ARGV[5]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
    end
  end
end
keep_indexes()
if given > 0 then redis.call('PUBLISH', ARGV[7], '') end
return given
