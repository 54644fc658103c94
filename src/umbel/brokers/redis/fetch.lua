--[[
Takes messages from queues and records them as held, in one step.

KEYS[1]  unacked              hash  tag -> '[<message>, "", "<queue>"]', from which Celery's workers restore it
KEYS[2]  unacked_index        zset  tag by the time it was handed out
KEYS[3]  umbel:held:<id>      hash  tag -> '<position>:<trailer>:<list key>'; position orders what one consumer took,
                                    trailer is the length of what follows the message in unacked
KEYS[4]  umbel:held_raw       hash  tag -> a message that is no JSON object: kombu would choke on it
KEYS[5]  umbel:returned_raw   set   digests of such messages that went back to their queues
KEYS[6]  umbel:consumers      zset  identity by the time its lease lapses
KEYS[7 ... 6+q]               zset  umbel:delayed:<queue>: '<step>:<unique>:<message>' by due time
KEYS[7+q ...]                 list  the queues' messages, priority by priority: q1 q2 ... q1<step> q2<step> ...

ARGV[1]  how many messages at most
ARGV[2]  position of the first
ARGV[3]  prefix of tags made here; no other call has it
ARGV[4]  which queue has the first turn, from 0
ARGV[5]  'turns', or 'strict' to empty earlier queues first
ARGV[6]  how many delayed messages of a queue to move at most
ARGV[7]  q, the number of queues
ARGV[8]  separator of queue and step in list keys
ARGV[9]  identity
ARGV[10] seconds that its lease lasts
ARGV[11 ... 10+q]     list keys of step 0, in the order of the queues
ARGV[11+q ... 10+2q]  '", "", <name as JSON>]' of each queue: what follows a message in unacked

Returns {seconds until the next delayed message is due or '', then for each message: tag, number of its list key among
the lists (from 1; negative when it is unmarkable and was handed out before), message}.
]]
local call, find, sub, byte = redis.call, string.find, string.sub, string.byte
local unacked, index, held, held_raw, returned_raw = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local wanted, position, unique = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local first, strict, limit_due = tonumber(ARGV[4]), ARGV[5] == 'strict', tonumber(ARGV[6])
local queues, separator = tonumber(ARGV[7]), ARGV[8]
local lists_at = 6 + queues

-- A write that takes no memory and changes nothing. As the first, it lets the others through when Redis is out of memory
-- (workers have to go on, so that memory comes free), and has a server refuse that takes no writes at all: a replica.
call('HDEL', held_raw, '')

local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000

-- Moves what is due of one queue to its front, the earliest first in line. Returns when the next one is due.
local function promote(q)
  local delayed = KEYS[6 + q]
  local head = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if not head[2] then return nil end
  if tonumber(head[2]) > now then return tonumber(head[2]) end
  local due = call('ZRANGEBYSCORE', delayed, '-inf', string.format('%.6f', now), 'LIMIT', 0, limit_due)
  for i = #due, 1, -1 do
    local _, after, step = find(due[i], '^(%d+):[^:]*:')
    local list = ARGV[10 + q]
    if step ~= '0' then list = list .. separator .. step end
    call('RPUSH', list, sub(due[i], after + 1))
    call('ZREM', delayed, due[i])
  end
  head = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  return head[2] and tonumber(head[2])
end

local next_due
for q = 1, queues do
  local due = promote(q)
  if due and (not next_due or due < next_due) then next_due = due end
end

local messages, lists, taken = {}, {}, 0
local function take(list, count)
  local got = call('RPOP', KEYS[lists_at + list], count)
  if not got then return 0 end
  for i = 1, #got do
    taken = taken + 1
    messages[taken], lists[taken] = got[i], list
  end
  return #got
end

-- Queues of one priority share what is wanted; what one does not use is the others'.
local function take_step(base)
  local open = {}
  for i = 0, queues - 1 do open[#open + 1] = base + (first + i) % queues + 1 end
  while taken < wanted and #open > 0 do
    local still = {}
    for i = 1, #open do
      local share = wanted - taken
      if not strict then share = math.ceil(share / (#open - i + 1)) end
      if share > 0 and take(open[i], share) == share then still[#still + 1] = open[i] end
    end
    open = still
  end
end

for base = 0, #KEYS - lists_at - 1, queues do
  if taken >= wanted then break end
  take_step(base)
end
local reply = {next_due and string.format('%.6f', math.max(next_due - now, 0)) or ''}
if taken == 0 then return reply end

-- The tag that the publisher gave a message; false for a JSON object without one, nil for anything else. It is looked
-- for by the part of its key that is rare in messages, which halves the time; whatever is unusual is decoded instead.
local function tag_of(message)
  if byte(message, 1) == 123 and byte(message, -1) == 125 then
    local at, after = find(message, '_tag"', 1, true)
    if at and sub(message, at - 9, at - 1) == '"delivery' and not find(message, '_tag"', after, true) then
      local _, _, tag = find(message, '^%s*:%s*"([^"\\]+)"', after + 1)
      if tag then return tag end
    end
  end
  if not find(message, '^%s*{') then return nil end
  local ok, content = pcall(cjson.decode, message)
  if not ok then return nil end
  local properties = content.properties
  local tag = type(properties) == 'table' and properties.delivery_tag
  return type(tag) == 'string' and tag ~= '' and tag
end

local tags, readable, seen = {}, {}, {}
for i = 1, taken do
  local tag = tag_of(messages[i])
  readable[i] = tag ~= nil
  if not tag or seen[tag] then tag = unique .. i end
  tags[i], seen[tag] = tag, true
end
-- A tag that is unacknowledged somewhere else names another delivery of the message.
local known = call('HMGET', unacked, unpack(tags))
local now_text = string.format('%.6f', now)
local fields, scores, holds, raws = {}, {}, {}, {}
local trailers, origins = {}, {}
for list = 1, #KEYS - lists_at do
  local trailer = ARGV[11 + queues + (list - 1) % queues]
  trailers[list], origins[list] = trailer, ':' .. #trailer .. ':' .. KEYS[lists_at + list]
end
local field = 0
for i = 1, taken do
  local list, message = lists[i], messages[i]
  local tag = known[i] and unique .. i or tags[i]
  if readable[i] then
    fields[field + 1], fields[field + 2] = tag, '[' .. message .. trailers[list]
    field = field + 2
  else
    raws[#raws + 1] = tag
    raws[#raws + 1] = message
    if call('SREM', returned_raw, redis.sha1hex(message)) == 1 then lists[i] = -list end
  end
  scores[2 * i - 1], scores[2 * i] = now_text, tag
  holds[2 * i - 1], holds[2 * i] = tag, position + i .. origins[list]
  local at = 3 * i
  reply[at - 1], reply[at], reply[at + 1] = tag, lists[i], message
end
if field > 0 then call('HSET', unacked, unpack(fields)) end
if #raws > 0 then call('HSET', held_raw, unpack(raws)) end
call('ZADD', index, unpack(scores))
call('HSET', held, unpack(holds))
-- A peer that took over everything while this consumer was slow has ended its lease. What is held must be under one.
call('ZADD', KEYS[6], 'NX', string.format('%.6f', now + ARGV[10]), ARGV[9])
return reply
