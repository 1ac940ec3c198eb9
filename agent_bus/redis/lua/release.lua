-- Gives entries back to `waiting`. ARGV: worker, instance, ttl, the bell's channel,
-- then (entry, next attempt, due in epoch ms or 0, note or '') for each.
-- An entry that another instance holds by now is left alone. Answers how many went back.
local given = 0
for at = 5, #ARGV, 4 do
  local id, attempt, due, note = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  if holder_of(id) == me then
    local fields = entry_of(id)
    if fields then
      if note == '' then
        redis.call('DEL', base .. 'note:' .. id)
      else
        redis.call('SET', base .. 'note:' .. id, note, 'EX', ttl)
      end
      park(id, facts(id, fields), attempt, due)
      given = given + 1
    else
      redis.call('XACK', stream, GROUP, id)
    end
  end
end
keep_indexes()
if given > 0 then redis.call('PUBLISH', ARGV[4], '') end
return given
