--[[
Defines store_result(key, document, state, expires): keeps a task's result document as Celery does, SET with an
expiry and PUBLISH on the channel of the same name. A stored SUCCESS is never replaced by another state.

  key       celery-task-meta-<task id>, prefixed
  document  the serialized result
  state     its state
  expires   seconds; '' keeps it for ever

Returns an error table when Redis refused, else nil.
]]
local function succeeded(document)
  if string.find(document, '^%s*{%s*"status"%s*:%s*"SUCCESS"') then return true end
  if string.find(document, '^%s*{') then
    local ok, content = pcall(cjson.decode, document)
    if ok then return content.status == 'SUCCESS' end
  end
  -- Pickle, YAML and msgpack keep the words side by side.
  local at = string.find(document, 'status', 1, true)
  return at and string.find(string.sub(document, at + 6, at + 24), 'SUCCESS', 1, true) ~= nil
end

local function store_result(key, document, state, expires)
  if state ~= 'SUCCESS' then
    local stored = redis.pcall('GET', key)
    if type(stored) == 'string' and succeeded(stored) then return nil end
  end
  local reply
  if expires == '' then reply = redis.pcall('SET', key, document)
  else reply = redis.pcall('SETEX', key, expires, document) end
  if reply.err then return reply end
  redis.call('PUBLISH', key, document)
  return nil
end
