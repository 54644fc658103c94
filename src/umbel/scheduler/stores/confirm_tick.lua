--[[
Notes that the task of an entry's last tick was sent.

KEYS[1]: hash umbel:beat:{scope}:runs, see claim_tick.lua
ARGV: name, serial
]]
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  local serial, times, identity = string.match(known, '^(%d+) (%S+ %S+) %d (.*)$')
  if serial == ARGV[2] then
    redis.call('HSET', KEYS[1], ARGV[1], table.concat({serial, times, '1', identity}, ' '))
  end
end
