--[[
Finds messages whose holder is gone. It moves nothing: restore.lua does, when their redelivery is written into them.

KEYS[1]  umbel:consumers    zset    identity by the time its lease lapses
KEYS[2]  unacked            hash    tag -> message in kombu's form
KEYS[3]  unacked_index      zset    tag by the time it was handed out
KEYS[4]  umbel:held_raw     hash    tag -> a message that is no JSON object
KEYS[5]  umbel:swept        string  exists while somebody has looked for Celery's lost messages a short time ago
KEYS[6]  unacked_mutex      string  kombu's lock around that

ARGV[1]  what the keys of held hashes begin with: umbel:held:
ARGV[2]  how many messages to return at most
ARGV[3]  visibility timeout, seconds
ARGV[4]  seconds between two looks for Celery's lost messages
ARGV[5]  '1' to look for them now
ARGV[6]  the value of the lock while it is ours
ARGV[7]  milliseconds after which the lock is anybody's
ARGV[8]  what the keys of begun sets begin with: umbel:begun:

Returns {those of lapsed consumers, Celery's}: {identity, tag, position, list key, message, 1 if begun, ...} with the
newest first, and {tag, value in unacked, ...}. The lock is held when there are any of Celery's.
]]
local call = redis.call
local consumers, unacked, index, held_raw, swept, mutex = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, limit = ARGV[1], tonumber(ARGV[2])
-- A write that takes no memory and changes nothing. As the first, it lets the others through when Redis is out of memory
-- (workers have to go on, so that memory comes free), and has a server refuse that takes no writes at all: a replica.
call('HDEL', held_raw, '')
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000
local now_text = string.format('%.6f', now)

-- What one consumer holds, newest first.
local function holdings(key)
  local flat, list = call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local _, _, position, trailer, origin = string.find(flat[i + 1], '^(%d+):(%d+):(.*)$')
    if flat[i] ~= '' and position then
      list[#list + 1] = {tag = flat[i], position = tonumber(position), trailer = trailer, origin = origin}
    end
  end
  table.sort(list, function(a, b) return a.position > b.position end)
  return list
end

local lapsed = {}
for _, identity in ipairs(call('ZRANGEBYSCORE', consumers, '-inf', now_text)) do
  local key, left = prefix .. identity, 0
  for _, item in ipairs(holdings(key)) do
    local message = call('HGET', held_raw, item.tag)
    if not message then
      local value = call('HGET', unacked, item.tag)
      message = value and string.sub(value, 2, -1 - item.trailer)
    end
    if not message then
      call('HDEL', key, item.tag)  -- Celery's rule returned it before we did
    elseif limit > 0 then
      limit, left = limit - 1, left + 1
      local begun = call('SISMEMBER', ARGV[8] .. identity, item.tag)
      for _, part in ipairs({identity, item.tag, item.position, item.origin, message, begun}) do
        lapsed[#lapsed + 1] = part
      end
    else
      left = left + 1
    end
  end
  if left == 0 then
    call('DEL', key, ARGV[8] .. identity)
    call('ZREM', consumers, identity)
  end
end

local stale = {}
local function is_held_by_the_living(tag)
  for _, identity in ipairs(call('ZRANGEBYSCORE', consumers, '(' .. now_text, '+inf')) do
    if call('HEXISTS', prefix .. identity, tag) == 1 then return true end
  end
  return false
end

if limit > 0 and (ARGV[5] == '1' or call('EXISTS', swept) == 0) then
  call('SET', swept, '1', 'PX', math.floor(ARGV[4] * 1000))
  local old = call('ZRANGEBYSCORE', index, '-inf', string.format('%.6f', now - ARGV[3]), 'LIMIT', 0, limit)
  if #old > 0 and call('SET', mutex, ARGV[6], 'NX', 'PX', ARGV[7]) then
    for _, tag in ipairs(old) do
      local value = call('HGET', unacked, tag)
      if value and not is_held_by_the_living(tag) then
        stale[#stale + 1] = tag
        stale[#stale + 1] = value
      elseif not value and call('HEXISTS', held_raw, tag) == 0 then
        call('ZREM', index, tag)
      end
    end
    if #stale == 0 then call('DEL', mutex) end
  end
end
return {lapsed, stale}
