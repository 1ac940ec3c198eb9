-- Closes a gate. KEYS: the gate. ARGV: the notice as JSON, ms until it opens. A gate that is closed for longer stays.
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
