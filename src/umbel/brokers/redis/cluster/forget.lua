--[[
Forgets a consumer whose messages have all been returned, unless it is back.

KEYS[1]  umbel:consumers         zset  identity by the time its lease lapses
KEYS[2]  umbel:queues:<identity> set   the queues of which it may hold messages
KEYS[3]  umbel:held:<identity>   hash  at home it has no messages

ARGV[1]  identity
]]
local clock = redis.call('TIME')
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lease and tonumber(lease) > clock[1] + clock[2] / 1000000 then return end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
