-- KEYS: the results stream. ARGV: seconds a result is kept, how many the stream keeps, then (task id, result) pairs.
local stored = {}
for at = 3, #ARGV, 2 do
  stored[#stored + 1] = store_result(KEYS[1], ARGV[at], ARGV[at + 1], ARGV[1], ARGV[2])
end
return stored
