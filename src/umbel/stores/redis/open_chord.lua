--[[
Says how many parts a chord has.

KEYS[1]  celery-taskset-meta-<group id>, prefixed, see count_part.lua
ARGV[1]  how many
ARGV[2]  seconds to keep that for; '' for ever

A chord that was ended begins anew: the claim on its body goes, as in Celery, and what an earlier run has left.
]]
local group = KEYS[1]
if redis.call('GET', group .. '.c') == 'done' then
  redis.call('DEL', group .. '.j', group .. '.t', group .. '.d', group .. '.c')
end
if ARGV[2] == '' then redis.call('SET', group .. '.s', ARGV[1])
else redis.call('SETEX', group .. '.s', ARGV[2], ARGV[1]) end
