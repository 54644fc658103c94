--[[
Runs commands that a worker cannot do without, though Redis is out of memory.

KEYS[1]  umbel:held_raw

ARGV     commands one after the other: how many words, then these
]]
-- A write that takes no memory and changes nothing: as the first, it lets the others through.
redis.call('HDEL', KEYS[1], '')
local i = 1
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + count))
  i = i + 1 + count
end
