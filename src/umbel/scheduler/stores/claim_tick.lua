--[[
Claims one tick of an entry.

KEYS[1]: hash umbel:beat:{scope}:runs, name → "serial due at sent identity", see redis.py
ARGV: name, serial, due, at, identity

Returns 1 when the tick is the caller's.
]]
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  local serial, identity = string.match(known, '^(%d+) %S+ %S+ %d (.*)$')
  if serial == ARGV[2] and identity == ARGV[5] then
    return 1
  end
  if tonumber(serial) ~= tonumber(ARGV[2]) - 1 then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], table.concat({ARGV[2], ARGV[3], ARGV[4], '0', ARGV[5]}, ' '))
return 1
