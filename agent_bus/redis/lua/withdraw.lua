-- Takes a task back that no instance runs. ARGV: worker, instance (of no meaning here), ttl, task id, then the entries
-- in which it was found. Answers how many entries went, or -1 when an instance has the task: then all stay.
local task_id = ARGV[4]
local candidates, seen = {}, {}
for at = 5, #ARGV do candidates[#candidates + 1] = ARGV[at] end
local owner = redis.call('HGET', ids_key, task_id)
if owner then candidates[#candidates + 1] = owner end
local read_to = nil
for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for at = 1, #row, 2 do group[row[at]] = row[at + 1] end
  if group.name == GROUP then read_to = pad(group['last-delivered-id']) end
end
local done = {}
for _, id in ipairs(candidates) do
  local fields = not seen[id] and entry_of(id)
  seen[id] = true
  if fields then
    local told = facts(id, fields)
    if told.task_id == task_id then
      local holder = read_to and holder_of(id)
      if holder and holder ~= WAITING then return -1 end
      -- What was read and is not pending somebody has acknowledged, and left where it is.
      if holder or not read_to or pad(id) > read_to then
        done[#done + 1] = {id = id, task_id = task_id, session = told.session or ''}
      end
    end
  end
end
if read_to then
  finish_all(done)
else
  for _, one in ipairs(done) do redis.call('XDEL', stream, one.id) end
end
return #done
