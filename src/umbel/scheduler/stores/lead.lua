--[[
Makes a beat the leader, or lets it stay the leader.

KEYS[1]: string umbel:beat:{scope}:leader:<role>, the leader's identity; it expires with the lease
KEYS[2]: string umbel:beat:{scope}:revision, the number of the last change of the entries
ARGV: the caller's identity, the lease in milliseconds, the identity of a leader known to be dead or ''

Returns the leader's identity and the revision.
]]
local leader = redis.call('GET', KEYS[1])
if not leader or leader == ARGV[1] or leader == ARGV[3] then
  leader = ARGV[1]
  redis.call('SET', KEYS[1], leader, 'PX', ARGV[2])
end
return {leader, redis.call('GET', KEYS[2]) or '0'}
