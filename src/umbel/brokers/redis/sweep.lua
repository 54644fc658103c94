--[[
Begins or ends the search of a queue for messages of revoked tasks. One worker searches for all: it is enough that
each message is looked at once after its task was revoked.

KEYS[1]  umbel:revocations       string  what the last revocation is called
KEYS[2]  umbel:sweeps            hash    queue -> the last revocation that was searched for
KEYS[3]  umbel:sweeping:<queue>  string  identity of the consumer that searches

ARGV[1]  queue
ARGV[2]  identity
ARGV[3]  milliseconds after which somebody else may search
ARGV[4]  '' to begin, else the revocation that was searched for from beginning to end
ARGV[5]  seconds after which that may be forgotten

Returns {'', 0}: there is nothing to search for; {'', ms}: somebody searches, ask again then; {revocation, 0}: search.
]]
local call = redis.call
local last = call('GET', KEYS[1])
if ARGV[4] ~= '' then
  call('HSET', KEYS[2], ARGV[1], ARGV[4])
  call('EXPIRE', KEYS[2], ARGV[5])
  if call('GET', KEYS[3]) == ARGV[2] then call('DEL', KEYS[3]) end
end
if not last or call('HGET', KEYS[2], ARGV[1]) == last then return {'', 0} end
if call('SET', KEYS[3], ARGV[2], 'NX', 'PX', ARGV[3]) or call('GET', KEYS[3]) == ARGV[2] then return {last, 0} end
return {'', math.max(call('PTTL', KEYS[3]), 1)}
