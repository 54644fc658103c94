--[[
Extends a consumer's lease.

KEYS[1]  umbel:consumers    zset  identity by the time its lease lapses
KEYS[2]  umbel:held:<id>    hash  tag -> '<position>:<trailer>:<list key>' (fetch.lua)
KEYS[3]  unacked_index      zset  tag by the time it was handed out
KEYS[4]  umbel:mark         string  what the first consumer since the database was emptied has put there

ARGV[1]  identity
ARGV[2]  seconds that the lease lasts from now
ARGV[3]  '1' to tell Celery's workers too: what is held counts as handed out now
ARGV[4]  the field of held that is no tag but tells what the hash is; it also keeps the hash from Redis' compact form,
         whose every access is a search
ARGV[5]  the mark to make where there is none

Returns {how many consumers' leases have lapsed, the mark, the time in epoch seconds}.
]]
local call = redis.call
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000
-- A write that takes no memory and changes nothing. As the first, it lets the others through when Redis is out of memory
-- (workers have to go on, so that memory comes free), and has a server refuse that takes no writes at all: a replica.
call('HDEL', KEYS[2], ' ')
-- Where there was a lease there is the hash: they end together.
if call('ZADD', KEYS[1], string.format('%.6f', now + ARGV[2]), ARGV[1]) == 1 then
  call('HSETNX', KEYS[2], '', ARGV[4])
end
local now_text = string.format('%.6f', now)
if ARGV[3] == '1' then
  local batch = {}
  for _, tag in ipairs(call('HKEYS', KEYS[2])) do
    batch[#batch + 1] = now_text
    batch[#batch + 1] = tag
    if #batch >= 4000 then
      call('ZADD', KEYS[3], 'XX', unpack(batch))
      batch = {}
    end
  end
  if #batch > 0 then call('ZADD', KEYS[3], 'XX', unpack(batch)) end
end
call('SET', KEYS[4], ARGV[5], 'NX')
return { call('ZCOUNT', KEYS[1], '-inf', now_text), call('GET', KEYS[4]), now_text }
