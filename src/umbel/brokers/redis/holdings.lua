--[[
Reads what one consumer holds.

KEYS[1]  umbel:held:<id>    hash  tag -> '<position>:<trailer>:<list key>' (fetch.lua)
KEYS[2]  unacked            hash  tag -> message in kombu's form
KEYS[3]  umbel:held_raw     hash  tag -> a message that is no JSON object

ARGV     tags

Returns {tag, position, list key, message, ...} of those of the tags that are held.
]]
local call = redis.call
local reply = {}
for _, tag in ipairs(ARGV) do
  local value = call('HGET', KEYS[1], tag)
  local _, _, position, trailer, origin = string.find(value or '', '^(%d+):(%d+):(.*)$')
  if position then
    local message = call('HGET', KEYS[3], tag)
    if not message then
      local stored = call('HGET', KEYS[2], tag)
      message = stored and string.sub(stored, 2, -1 - trailer)
    end
    if message then
      for _, part in ipairs({tag, tonumber(position), origin, message}) do reply[#reply + 1] = part end
    else
      call('HDEL', KEYS[1], tag)
    end
  end
end
return reply
