--[[
KEYS[1]: string umbel:beat:{scope}:leader:<role>
ARGV[1]: the identity of who leads no longer
]]
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
