--[[
Looks at some messages of a queue and takes those of revoked tasks out, recorded as held as fetch.lua does.

KEYS[1]  unacked                 hash    tag -> '[<message>, "", "<queue>"]'
KEYS[2]  unacked_index           zset    tag by the time it was handed out
KEYS[3]  umbel:held:<id>         hash    tag -> '<position>:<trailer>:<list key>'
KEYS[4]  umbel:held_raw          hash    tag -> a message that is no JSON object; none is added here
KEYS[5]  umbel:consumers         zset    identity by the time its lease lapses
KEYS[6]  umbel:revoked           zset    ids of revoked tasks by the time at which each is forgotten
KEYS[7]  umbel:sweeping:<queue>  string  identity of the consumer that searches
KEYS[8]  a list of the queue, or its umbel:delayed:<queue>, a zset of '<step>:<unique>:<message>'

ARGV[1]  'list' or 'delayed'
ARGV[2]  where to go on: of a list how many messages at its right end are to be looked at yet, '-1' at first; of a zset
         the cursor of ZSCAN, '0' at first
ARGV[3]  how many messages to look at
ARGV[4]  position of the first
ARGV[5]  prefix of tags made here; no other call has it
ARGV[6]  what follows a message in unacked
ARGV[7]  list key of step 0
ARGV[8]  separator of queue and step in list keys
ARGV[9]  identity
ARGV[10] seconds that its lease lasts
ARGV[11] milliseconds after which somebody else may search

Returns {where to go on or '' at the end, then for each message: tag, step ('' of the list itself), message}.
]]
local call, find, sub = redis.call, string.find, string.sub
local key, revoked = KEYS[8], KEYS[6]
-- A write that takes no memory and changes nothing: see fetch.lua.
call('HDEL', KEYS[4], '')
local clock = call('TIME')
local now = clock[1] + clock[2] / 1000000
call('PEXPIRE', KEYS[7], ARGV[11])

local function is_kept(id)
  local gone_at = call('ZSCORE', revoked, id)
  return gone_at and tonumber(gone_at) > now
end

-- Whether a message's own id is a revoked one. Decoding is for the few that have such an id anywhere.
local function is_revoked(message)
  local from = 1
  while true do
    local _, after, id = find(message, '"id" ?: ?"([^"\\]*)"', from)
    if not after then return false end
    if is_kept(id) then
      local ok, content = pcall(cjson.decode, message)
      local headers = ok and type(content) == 'table' and content.headers
      return type(headers) == 'table' and headers.id == id
    end
    from = after + 1
  end
end

local messages, steps = {}, {}
local function from_list()
  local left, length, count = tonumber(ARGV[2]), call('LLEN', key), tonumber(ARGV[3])
  -- What is added comes to the left, what is taken goes from the right: counted from there, nothing is passed over.
  if left < 0 or left > length then left = length end
  local last = math.max(left - count, 0)
  if left == 0 then return '' end
  local found = call('LRANGE', key, -left, -last - 1)
  for i = 1, #found do
    if is_revoked(found[i]) then
      messages[#messages + 1], steps[#steps + 1] = found[i], ''
      call('LSET', key, -(left - i + 1), ARGV[5])
    end
  end
  if #messages > 0 then call('LREM', key, 0, ARGV[5]) end
  return last > 0 and tostring(last) or ''
end

local function from_delayed()
  local page = call('ZSCAN', key, ARGV[2], 'COUNT', ARGV[3])
  for i = 1, #page[2], 2 do
    local _, after, step = find(page[2][i], '^(%d+):[^:]*:')
    local message = after and sub(page[2][i], after + 1)
    if message and is_revoked(message) and call('ZREM', key, page[2][i]) == 1 then
      messages[#messages + 1], steps[#steps + 1] = message, step
    end
  end
  return page[1] ~= '0' and page[1] or ''
end

local reply = {ARGV[1] == 'list' and from_list() or ARGV[1] == 'delayed' and from_delayed()}
if #messages == 0 then return reply end
local now_text = string.format('%.6f', now)
for i = 1, #messages do
  local tag, origin = ARGV[5] .. i, ARGV[7]
  if steps[i] == '' then origin = key elseif steps[i] ~= '0' then origin = origin .. ARGV[8] .. steps[i] end
  call('HSET', KEYS[1], tag, '[' .. messages[i] .. ARGV[6])
  call('ZADD', KEYS[2], now_text, tag)
  call('HSET', KEYS[3], tag, ARGV[4] + i .. ':' .. #ARGV[6] .. ':' .. origin)
  local at = 3 * i
  reply[at - 1], reply[at], reply[at + 1] = tag, steps[i], messages[i]
end
call('ZADD', KEYS[5], 'NX', string.format('%.6f', now + ARGV[10]), ARGV[9])
return reply
