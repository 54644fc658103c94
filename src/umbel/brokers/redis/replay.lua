--[[
Puts a dead letter back on its queue, unless somebody has taken it away.

KEYS[1]  umbel:dead:<queue>   zset  '<unique>:<length>:<reason><message>' by the time it was given up
KEYS[2]  list                 the queue's messages of one priority; the left end is the back

ARGV[1]  the letter, a member of the zset
ARGV[2]  the message as it is to wait

Returns 1, or 0 when the letter is gone. Pushed before it is removed: when Redis refuses, the letter stays.
]]
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return redis.call('ZREM', KEYS[1], ARGV[1])
