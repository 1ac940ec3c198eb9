-- Removes an instance that holds nothing. ARGV: worker, instance, ttl.
if #redis.call('XPENDING', stream, GROUP, '-', '+', 1, me) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, me)
  return 1
end
return 0
