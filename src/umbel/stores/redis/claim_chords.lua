--[[
Takes chords that nobody has completed in time.

KEYS: for each realm its zset umbel:chords:<realm> and its hash umbel:chord_bodies:<realm>, see count_part.lua.
ARGV[1]: seconds for which they are the caller's.

Returns for each its group id, token, body and the realm's zset.
]]
local now = tonumber(redis.call('TIME')[1])
local claimed = {}
for k = 1, #KEYS, 2 do
  for _, group_id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[k], '-inf', now, 'LIMIT', 0, 100)) do
    local stored = redis.call('HGET', KEYS[k + 1], group_id)
    if stored then
      redis.call('ZADD', KEYS[k], now + ARGV[1], group_id)
      local at = string.find(stored, ':', 1, true)
      claimed[#claimed + 1] = group_id
      claimed[#claimed + 1] = string.sub(stored, 1, at - 1)
      claimed[#claimed + 1] = string.sub(stored, at + 1)
      claimed[#claimed + 1] = KEYS[k]
    else
      redis.call('ZREM', KEYS[k], group_id)
    end
  end
end
return claimed
