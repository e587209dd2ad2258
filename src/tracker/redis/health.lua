-- What there is to tell of a swarm; changes nothing. KEYS as of an announce.
--
-- Returns a string: how many seconds ago somebody announced, 4 bytes; the swarm as a whole as the members have it, 52; the
-- ids of some of its peers.
local call = redis.call
local swarm = call('HGET', KEYS[1], 'm')
if not swarm then return '' end
local said = {struct.unpack('>I4I4ddI4I4I4I4I4I4I4', swarm)}
local peers, ids = {0, said[6] + said[7], said[9] + said[10]}, {}
for family = 2, 3 do
  local length = family == 2 and 6 or 18
  local addrs = {}
  -- Ten stretches, as the roster begins with seeders and ends with leechers.
  for part = 0, 9 do
    local from, to = math.floor(peers[family] * part / 10), math.floor(peers[family] * (part + 1) / 10)
    to = math.min(to, from + 50)
    local list = from < to and call('GETRANGE', KEYS[family], from * length, to * length - 1) or ''
    for at = 1, #list, length do addrs[#addrs + 1] = string.sub(list, at, at + length - 1) end
  end
  if #addrs > 0 then
    for _, says in ipairs(call('HMGET', KEYS[1], unpack(addrs))) do
      if says then ids[#ids + 1] = string.sub(says, 2, 21) end
    end
  end
end
return struct.pack('>I4', call('TIME')[1] - said[2]) .. string.sub(swarm, 1, 52) .. table.concat(ids)
