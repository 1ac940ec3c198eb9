-- Enqueues a task that came as a message, once, however many replicas hear it.
-- ARGV: worker, instance, ttl, the message's key, seconds in which the same message counts as heard, task JSON.
-- Answers the new entry, or '' when another replica was first.
if not redis.call('SET', base .. 'activated:' .. ARGV[4], me, 'NX', 'EX', ARGV[5]) then return '' end
return redis.call('XADD', stream, '*', 'task', ARGV[6])
