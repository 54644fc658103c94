--[[
Stores results and counts parts of chords. Follows store_result.lua, count_part.lua and end_chord.lua.

KEYS[1]  one of the keys: a node of a cluster tells by it whether they are its own

ARGV is a list of steps:

  R key document state expires   store a result (store_result.lua)
  N <11 operands>                count a part (count_part.lua)
  C <7 operands>                 end a chord (end_chord.lua)

Returns {the errors of those that Redis refused, due_chords}.
]]
local refused = {}
-- A write that takes no memory and changes nothing, in the slot of what follows. As the first, it lets the others through
-- when Redis is out of memory (until the result is stored its message cannot be acknowledged, and no memory comes free),
-- and has a server refuse that takes no writes at all: a replica.
redis.call('GETEX', ARGV[2])
local i = 1
while i <= #ARGV do
  local step, reply = ARGV[i], nil
  if step == 'R' then
    reply = store_result(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    i = i + 5
  elseif step == 'N' then
    reply = count_part(i + 1)
    i = i + 12
  else
    end_chord(i + 1)
    i = i + 8
  end
  if reply then refused[#refused + 1] = reply.err end
end
return { refused, due_chords }
