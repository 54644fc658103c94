--[[
Defines count_part(i) and due_chords: counts a part of a chord as Celery's workers do, so that they and Umbel's may run
the parts of one chord in any mixture. Its operands are ARGV[i] to ARGV[i + 10]:

  group     celery-taskset-meta-<group id>, prefixed; the keys beside it are Celery's:
              <group>.j  zset or list of entries      <group>.s  how many parts there are
              <group>.t  how many more                <group>.d  set of <task id>:<index>: what was counted
              <group>.c  whose it is to send the body, or 'done'
  group id
  task id
  index     its place among the results, '+inf' where it has none
  entry     [1, task id, state, result], serialized
  ordered   1 for a zset, 0 for a list
  expires   seconds to keep all that for; '' for ever
  due       umbel:chords:<realm>      zset  group id by the time from which on any worker may complete the chord
  bodies    umbel:chord_bodies:<realm> hash  group id -> <token>:<body>
  patience  seconds that the worker that counted the last part has for that
  body

The chord whose last part this is becomes due, unless a Celery worker is about to send its body: due_chords gets its
group id, token, body and realm's key. Returns Redis' error when it refused, else nil.
]]
local due_chords = {}

local function add_in_place(entries, index, entry)
  local place = redis.call('ZSCORE', entries, entry)
  while place do
    -- Celery before 5.7 has counted it, and does not say so in <group>.d.
    if place == index or '+' .. place == index then return end
    -- The same task may stand at two places with the same result; white space tells the entries apart.
    entry = entry .. ' '
    place = redis.call('ZSCORE', entries, entry)
  end
  redis.call('ZADD', entries, index, entry)
end

local function count_part(i)
  local group, group_id, index, entry, expires = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4], ARGV[i + 6]
  local entries, size_key, extra_key = group .. '.j', group .. '.s', group .. '.t'
  local counted, claim = group .. '.d', group .. '.c'
  if redis.call('GET', claim) == 'done' then return nil end
  local added = redis.pcall('SADD', counted, ARGV[i + 2] .. ':' .. index)
  if type(added) == 'table' then return added end
  local ordered, number = ARGV[i + 5] == '1', nil
  if ordered then
    if added == 1 then add_in_place(entries, index, entry) end
    number = redis.call('ZCARD', entries)
  else
    if added == 1 then redis.call('RPUSH', entries, entry) end
    number = redis.call('LLEN', entries)
  end
  if expires ~= '' then
    for _, key in ipairs({ entries, extra_key, size_key, counted, group }) do redis.call('EXPIRE', key, expires) end
  end
  local size = redis.call('GET', size_key)
  if not size or number < tonumber(size) + tonumber(redis.call('GET', extra_key) or 0) then return nil end
  -- A Celery worker's claim ends within minutes; this one lasts for as long as the chord is due.
  local clock = redis.call('TIME')
  local token = clock[1] .. '.' .. clock[2]
  if not redis.call('SET', claim, 'umbel-' .. token, 'NX') then return nil end
  if expires ~= '' then redis.call('EXPIRE', claim, expires) end
  redis.call('ZADD', ARGV[i + 7], clock[1] + ARGV[i + 9], group_id)
  redis.call('HSET', ARGV[i + 8], group_id, token .. ':' .. ARGV[i + 10])
  for _, value in ipairs({ group_id, token, ARGV[i + 10], ARGV[i + 7] }) do due_chords[#due_chords + 1] = value end
  return nil
end
