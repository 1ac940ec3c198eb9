-- Stores a note beside a claim and the session's conversation. ARGV: worker, instance, ttl, entry, note,
-- session or '', conversation or ''.
redis.call('SET', base .. 'note:' .. ARGV[4], ARGV[5], 'EX', ttl)
if ARGV[6] ~= '' and ARGV[7] ~= '' then redis.call('SET', base .. 'conversation:' .. ARGV[6], ARGV[7], 'EX', ttl) end
return 1
