-- Sends messages in one command. ARGV: the channel, then the messages. Returns how many there were.
for number = 2, #ARGV do redis.call('PUBLISH', ARGV[1], ARGV[number]) end
return #ARGV - 1
