-- Ends entries that were refused. ARGV: worker, instance, ttl, then the entries.
local done = {}
for at = 4, #ARGV do
  local fields = entry_of(ARGV[at])
  local told = fields and facts(ARGV[at], fields) or {}
  done[#done + 1] = {id = ARGV[at], task_id = told.task_id or '', session = told.session or ''}
end
finish_all(done)
return 1
