--[[
Keeps or removes an entry, if it has the version that the caller knows.

KEYS[1]: hash umbel:beat:{scope}:entries, name → JSON
KEYS[2]: hash umbel:beat:{scope}:versions, name → version
KEYS[3]: string umbel:beat:{scope}:revision, the number of the last change
KEYS[4]: hash umbel:beat:{scope}:runs, see claim_tick.lua
ARGV: name, the version that it has (0: there is none), JSON (empty: remove it)

Returns its new version, 0 when it does not have the version known.
]]
local version = redis.call('HGET', KEYS[2], ARGV[1]) or '0'
if version ~= ARGV[2] then
  return 0
end
local revision = redis.call('INCR', KEYS[3])
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[4], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('HSET', KEYS[2], ARGV[1], revision)
end
return revision
