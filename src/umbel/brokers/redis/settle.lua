--[[
Ends deliveries; each disposition happens whole or not at all.

KEYS[1]  unacked            hash  tag -> message in kombu's form
KEYS[2]  unacked_index      zset  tag by the time it was handed out
KEYS[3]  umbel:held:<id>    hash  tag -> '<position>:<trailer>:<list key>' (fetch.lua)
KEYS[4]  umbel:held_raw     hash  tag -> a message that is no JSON object
KEYS[5]  umbel:settled:<id> set   names of V, of calls whose answer may not have arrived

ARGV is a list of steps, each a letter and its operands. One step does for many deliveries what is usual: it stores
their results, all of them SUCCESS, and acknowledges them.

  S expires n tag... (key document)...

Any other disposition begins with D, U or V:

  D tag                          the steps that follow belong to this delivery; without it being held they do nothing
  U                              they belong to no delivery and always happen
  V name                         likewise, but not again: the same disposition has the same name when it is tried again
  c <7 operands>                 after these: they happen only if this chord is due (end_chord.lua)
  P list message                 publish to a queue
  F channel message              broadcast
  K zset keep unique reason message   keep, as a dead letter, what was to be published and no queue is bound for
  R key document state expires   store a result (store_result.lua)
  N <11 operands>                count a part of a chord (count_part.lua)
  H tag message value            hold a message: what fetch.lua writes of it; only U or V may go before, or A follow

and for a held delivery ends with one of these (without one only X, with its message, or C):

  A                              acknowledge
  Q list message                 back to the end of a queue
  q list message                 back to the front of a queue
  L zset due step unique message         delay until due; message may be '' for the one that is held
  X zset keep unique reason message   dead letter; keep is '<seconds>:<number>': older ones are forgotten, and the
                                      oldest where there are more ('': all are kept); message as for L
  C <7 operands>                 end a due chord (end_chord.lua)

First of all may come z: the answers to all calls before this one have arrived.

Returns {{number of the failed disposition (from 1), Redis' error, ...}, due_chords (count_part.lua)}. A disposition
fails when Redis refuses one of its steps; what it had published is taken back and its delivery stays held.
]]
local call, pcall_redis, sub = redis.call, redis.pcall, string.sub
local unacked, index, held, held_raw, settled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- Seconds after which the names of a consumer that was lost are forgotten.
local SETTLED_EXPIRES = 86400
-- A write that takes no memory and changes nothing. As the first, it lets the others through when Redis is out of memory
-- (workers have to go on, so that memory comes free), and has a server refuse that takes no writes at all: a replica.
call('HDEL', held_raw, '')
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000

local failures, gone, ended = {}, {}, {}
local number, tag, name, active, origin = 0, nil, nil, false, nil
local published, kept = {}, {}

local function fail(reply)
  failures[#failures + 1] = number
  failures[#failures + 1] = reply.err
  for i = #published, 1, -1 do call('LPOP', published[i]) end
  for zset, members in pairs(kept) do call('ZREM', zset, unpack(members)) end
  if name then call('SREM', settled, name) end
  active = false
end

local function attempt(...)
  local reply = pcall_redis(...)
  if type(reply) == 'table' and reply.err then fail(reply) return false end
  return true
end

local function finish()
  if tag then
    gone[#gone + 1] = tag
    ended[tag] = true
  end
  active = false
end

local function stored_message()
  local message = call('HGET', held_raw, tag)
  if message then return message end
  local trailer = string.match(origin, '^%d+:(%d+):')
  return sub(call('HGET', unacked, tag), 2, -1 - trailer)
end

-- The operands of X and K: zset keep unique reason message. The queue's name, in which 'umbel:dead:' is the first of
-- its kind, goes into the set of those that have letters.
local function bury(i, message)
  local key, reason = ARGV[i], ARGV[i + 3]
  local member = ARGV[i + 2] .. ':' .. #reason .. ':' .. reason .. message
  if not attempt('ZADD', key, string.format('%.6f', now), member) then return nil end
  local _, _, expires, limit = string.find(ARGV[i + 1], '^([^:]*):([^:]*)$')
  if expires ~= '' then call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now - expires)) end
  if limit ~= '' then call('ZREMRANGEBYRANK', key, 0, -1 - limit) end
  local _, _, queues, queue = string.find(key, '^(.-umbel:dead):(.*)$')
  if queues then pcall_redis('SADD', queues .. '_queues', queue) end
  return member
end

local steps = {
  S = function(i)
    local expires, count = ARGV[i], tonumber(ARGV[i + 1])
    local tags = i + 1
    name, published, kept = nil, {}, {}
    -- Whether Celery has taken one back meanwhile is not asked: its result is true, and Celery would store it too.
    local holds = call('HMGET', held, unpack(ARGV, tags + 1, tags + count))
    local at = tags + count + 1
    for n = 1, count do
      number, tag = number + 1, ARGV[tags + n]
      if holds[n] and not ended[tag] then
        local refused = store_result(ARGV[at], ARGV[at + 1], 'SUCCESS', expires)
        if refused then fail(refused) else finish() end
      end
      at = at + 2
    end
    return at
  end,
  D = function(i)
    number, tag, name, published, kept = number + 1, ARGV[i], nil, {}, {}
    origin = not ended[tag] and call('HGET', held, tag)
    active = origin and (call('HEXISTS', unacked, tag) == 1 or call('HEXISTS', held_raw, tag) == 1)
    return i + 1
  end,
  U = function(i)
    number, tag, name, published, kept, active = number + 1, nil, nil, {}, {}, true
    return i
  end,
  V = function(i)
    number, tag, name, published, kept, active = number + 1, nil, nil, {}, {}, true
    if call('SISMEMBER', settled, ARGV[i]) == 1 then
      active = false
    elseif attempt('SADD', settled, ARGV[i]) then
      name = ARGV[i]
      call('EXPIRE', settled, SETTLED_EXPIRES)
    end
    return i + 1
  end,
  z = function(i)
    call('DEL', settled)
    return i
  end,
  P = function(i)
    if active and attempt('LPUSH', ARGV[i], ARGV[i + 1]) then published[#published + 1] = ARGV[i] end
    return i + 2
  end,
  F = function(i)
    if active then call('PUBLISH', ARGV[i], ARGV[i + 1]) end
    return i + 2
  end,
  K = function(i)
    local member = active and bury(i, ARGV[i + 4])
    if member then kept[ARGV[i]] = { member, unpack(kept[ARGV[i]] or {}) } end
    return i + 5
  end,
  R = function(i)
    if active then
      local refused = store_result(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
      if refused then fail(refused) end
    end
    return i + 4
  end,
  N = function(i)
    if active then
      local refused = count_part(i)
      if refused then fail(refused) end
    end
    return i + 11
  end,
  H = function(i)
    if active then
      -- The last of its disposition but A, which cannot fail: there is no need to take it back.
      if attempt('HSET', unacked, ARGV[i], ARGV[i + 1]) then
        call('ZADD', index, string.format('%.6f', now), ARGV[i])
        call('HSET', held, ARGV[i], ARGV[i + 2])
      end
    end
    return i + 3
  end,
  c = function(i)
    active = active and is_due(i)
    return i + 7
  end,
  C = function(i)
    if active then end_chord(i) end
    return i + 7
  end,
  A = function(i)
    if active then finish() end
    return i
  end,
  Q = function(i)
    if active and attempt('LPUSH', ARGV[i], ARGV[i + 1]) then finish() end
    return i + 2
  end,
  q = function(i)
    if active and attempt('RPUSH', ARGV[i], ARGV[i + 1]) then finish() end
    return i + 2
  end,
  L = function(i)
    if active then
      local message = ARGV[i + 4] ~= '' and ARGV[i + 4] or stored_message()
      local member = ARGV[i + 2] .. ':' .. ARGV[i + 3] .. ':' .. message
      if attempt('ZADD', ARGV[i], ARGV[i + 1], member) then finish() end
    end
    return i + 5
  end,
  X = function(i)
    if active then
      if bury(i, ARGV[i + 4] ~= '' and ARGV[i + 4] or stored_message()) then finish() end
    end
    return i + 5
  end,
}

local i, count = 1, #ARGV
while i <= count do i = steps[ARGV[i]](i + 1) end

-- Deliveries leave only now, so that an error in between repeats work rather than lose it.
for from = 1, #gone, 4000 do
  local to = math.min(from + 3999, #gone)
  local removed = call('HDEL', unacked, unpack(gone, from, to))
  if removed < to - from + 1 then call('HDEL', held_raw, unpack(gone, from, to)) end
  call('ZREM', index, unpack(gone, from, to))
  call('HDEL', held, unpack(gone, from, to))
end
return { failures, due_chords }
