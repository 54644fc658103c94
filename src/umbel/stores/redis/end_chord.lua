--[[
Defines is_due(i) and end_chord(i): a due chord has been dealt with. Their operands are ARGV[i] to ARGV[i + 6]:

  group       celery-taskset-meta-<group id>, prefixed, see count_part.lua
  group id
  token       of this completion
  due         umbel:chords:<realm>
  bodies      umbel:chord_bodies:<realm>
  failed      1 keeps the parts, as Celery does
  remembered  seconds for which late repeats of its parts are known to be such
]]
local function is_due(i)
  local stored = redis.call('HGET', ARGV[i + 4], ARGV[i + 1])
  return stored and string.sub(stored, 1, #ARGV[i + 2] + 1) == ARGV[i + 2] .. ':'
end

local function end_chord(i)
  if not is_due(i) then return end
  local group = ARGV[i]
  redis.call('ZREM', ARGV[i + 3], ARGV[i + 1])
  redis.call('HDEL', ARGV[i + 4], ARGV[i + 1])
  if ARGV[i + 5] == '1' then redis.call('DEL', group .. '.s')
  else redis.call('DEL', group .. '.j', group .. '.t', group .. '.s', group .. '.d') end
  redis.call('SET', group .. '.c', 'done', 'EX', ARGV[i + 6])
end
