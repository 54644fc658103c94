--[[
Ends a consumer's lease. The last one to leave takes the mark (renew.lua) with it.

KEYS[1]  umbel:consumers    zset    identity by the time its lease lapses
KEYS[2]  umbel:mark         string
KEYS[3 ...]                 what else was the consumer's

ARGV[1]  identity
]]
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
