--[[
Returns held messages to the front of their queues, each only if it is still held as it was when it was read.

KEYS[1]  umbel:consumers      zset    identity by the time its lease lapses
KEYS[2]  unacked              hash    tag -> message in kombu's form
KEYS[3]  unacked_index        zset    tag by the time it was handed out
KEYS[4]  umbel:held_raw       hash    tag -> a message that is no JSON object
KEYS[5]  umbel:returned_raw   set     digests of such messages that went back to their queues
KEYS[6]  unacked_mutex        string  kombu's lock around returning Celery's messages

ARGV[1]  what the keys of held hashes begin with: umbel:held:
ARGV[2]  the value of the lock when it is ours and to be given back now, else ''
ARGV[3]  visibility timeout, seconds
then for each message, the one to be fetched first last:
  'own' identity, 'lapsed' identity or 'celery' ''
  tag
  message as it is to wait in the queue
  number of lists, list keys

Returns how many messages were moved.
]]
local call = redis.call
local consumers, unacked, index, held_raw, returned_raw, mutex = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix = ARGV[1]
-- A write that takes no memory and changes nothing. As the first, it lets the others through when Redis is out of memory
-- (workers have to go on, so that memory comes free), and has a server refuse that takes no writes at all: a replica.
call('HDEL', held_raw, '')
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000

local function may_take(how, identity, tag)
  if how == 'celery' then
    local since = call('ZSCORE', index, tag)
    return since and tonumber(since) <= now - ARGV[3]
  end
  if how == 'lapsed' then
    local lease = call('ZSCORE', consumers, identity)
    if lease and tonumber(lease) > now then return false end
  end
  return call('HEXISTS', prefix .. identity, tag) == 1
end

-- Pushed before it is removed: when Redis refuses (the key is no list), the message stays where it is.
local function move(tag, message, from, to)
  local raw = call('HEXISTS', held_raw, tag) == 1
  if not raw and call('HEXISTS', unacked, tag) == 0 then return true, 0 end
  for i = from, to do
    local reply = redis.pcall('RPUSH', ARGV[i], message)
    if type(reply) == 'table' and reply.err then return false, 0 end
  end
  if raw then call('SADD', returned_raw, redis.sha1hex(message)) end
  call('HDEL', raw and held_raw or unacked, tag)
  return true, 1
end

local moved, i = 0, 4
while i <= #ARGV do
  local how, identity, tag, message, lists = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  if may_take(how, identity, tag) then
    local gone, count = move(tag, message, i + 5, i + 4 + lists)
    if gone then
      call('ZREM', index, tag)
      if identity ~= '' then call('HDEL', prefix .. identity, tag) end
    end
    moved = moved + count
  end
  i = i + 5 + lists
end
if ARGV[2] ~= '' and call('GET', mutex) == ARGV[2] then call('DEL', mutex) end
return moved
