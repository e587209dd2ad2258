-- One announce, all of it at once. In front of this, the store defines EXPIRY in seconds and ROOM, the most peers.
--
-- KEYS 1  members: address -> what it said last (ARGV 1), when, 4 bytes, and its place in the roster, 4
--                  name of a peer with a key -> its address
--                  'm' -> the swarm as a whole, as below
--      2  roster by IPv4: the addresses one after the other, 6 bytes each, seeders before leechers
--      3  roster by IPv6: the same with 18 bytes each
-- ARGV 1  what the peer says: s, l or x for a seeder, a leecher, one that stops; 20 bytes of id, 4 of key; 8 each of what
--         it uploaded and downloaded
--      2  its address, compact
--      3  peers wanted, 2 bytes; a random number, 4; a byte, sum of: 1 completed, 2 peers of the other family, too, 4 ids
-- Returns a string: a byte, sum of: 1 the index is due, 2 no room; seeders, leechers, downloads, 4 bytes each; the lengths
-- of what follows: addresses by IPv4 and by IPv6, 2 bytes each; and their ids.
local call, byte, sub, pack, unpack_bytes = redis.call, string.byte, string.sub, struct.pack, struct.unpack
local MEMBERS, SAYS, ADDR = KEYS[1], ARGV[1], ARGV[2]
local SEEDER, STOPPED, SWEEP, SWEEPS = 115, 120, 250, 4
local wanted, random, options = unpack_bytes('>I2I4B', ARGV[3])
local role = byte(SAYS)
local own = #ADDR == 6 and 2 or 3
local now = tonumber(call('TIME')[1])

local found = call('HMGET', MEMBERS, ADDR, 'm')
local before, swarm = found[1], found[2]

-- When to look for the expired, when somebody was seen, bytes up and down lately, downloads; for each roster how many
-- seeders and leechers it has, and where the search for the expired goes on.
local SWARM = '>I4I4ddI4I4I4I4I4I4I4'
-- Longer than what Redis packs into a list (hash-max-listpack-value), in which every field is looked for from the start.
local PADDING = '0123456789abc'
local due, seen, up, down, completed = 0, now, 0, 0, 0
local seeders, leechers, cursor = {0, 0, 0}, {0, 0, 0}, {0, 0, 0}
if swarm then
  due, seen, up, down, completed, seeders[2], leechers[2], cursor[2], seeders[3], leechers[3], cursor[3] =
    unpack_bytes(SWARM, swarm)
end

local function length(family) return family == 2 and 6 or 18 end

-- By what a peer with a key is known again at another address of the same family; nothing for one without.
local function name(says, family)
  if sub(says, 22, 25) == '\0\0\0\0' then return end
  return sub(says, 2, 25) .. family
end

local function get(family, place)
  local from = place * length(family)
  return call('GETRANGE', KEYS[family], from, from + length(family) - 1)
end

-- Has the one at one place in the roster at another as well.
local function move(family, from, to)
  if from == to then return end
  local addr = get(family, from)
  local says = call('HGET', MEMBERS, addr)
  call('SETRANGE', KEYS[family], to * length(family), addr)
  if says then call('HSET', MEMBERS, addr, sub(says, 1, 45) .. pack('>I4', to)) end
end

-- A place in the roster for one more.
local function open_place(family, is_seeder)
  local first, all = seeders[family], seeders[family] + leechers[family]
  if all == 0 then call('DEL', KEYS[family]) end
  if not is_seeder then
    leechers[family] = leechers[family] + 1
    return all
  end
  move(family, first, all)
  seeders[family] = first + 1
  return first
end

local function strike(addr, family)
  local says = call('HGET', MEMBERS, addr)
  if not says then return end
  local place, last = unpack_bytes('>I4', says, 46), seeders[family] + leechers[family] - 1
  if byte(says) == SEEDER then
    seeders[family] = seeders[family] - 1
    move(family, seeders[family], place)
    move(family, last, seeders[family])
  else
    leechers[family] = leechers[family] - 1
    move(family, last, place)
  end
  call('HDEL', MEMBERS, addr, name(says, family))
end

local function split(list, family)
  local addrs = {}
  for at = 1, #list, length(family) do addrs[#addrs + 1] = sub(list, at, at + length(family) - 1) end
  return addrs
end

-- Strikes some of the expired of a roster. Whether the keys fit together, which they do not when Redis has evicted some; and
-- whether most that were looked at had expired.
local function sweep(family)
  local all = seeders[family] + leechers[family]
  if all == 0 then return true, false end
  local from, gone = cursor[family] < all and cursor[family] or 0, {}
  local count = math.min(SWEEP, all - from)
  local addrs = split(call('GETRANGE', KEYS[family], from * length(family), (from + count) * length(family) - 1), family)
  if #addrs ~= count then return false end
  for n, says in ipairs(call('HMGET', MEMBERS, unpack(addrs))) do
    if not says or unpack_bytes('>I4', says, 46) ~= from + n - 1 then return false end
    if unpack_bytes('>I4', says, 42) <= now - EXPIRY then gone[#gone + 1] = addrs[n] end
  end
  for _, addr in ipairs(gone) do strike(addr, family) end
  cursor[family] = from + count < all and from + count - #gone or 0
  return true, #gone * 2 > count
end

local function sizes() return seeders[2] + seeders[3], leechers[2] + leechers[3] end

local tidy = now >= due
if tidy then
  local whole, crowd = true, false
  for family = 2, 3 do
    local more = true
    for _ = 1, SWEEPS do
      if whole and more then whole, more = sweep(family) end
    end
    -- Many have left together.
    crowd = crowd or more
  end
  if not whole then
    call('DEL', unpack(KEYS))
    seeders, leechers = {0, 0, 0}, {0, 0, 0}
  end
  before = call('HGET', MEMBERS, ADDR)
  local most = math.max(SWEEP, seeders[2] + leechers[2], seeders[3] + leechers[3])
  due = now + (crowd and 1 or math.max(1, math.floor(EXPIRY / 16 * SWEEP / most)))
end

-- What is known of this peer, wherever it was. Another client that was at its address has gone, unless this one has.
local same = before and sub(before, 2, 21) == sub(SAYS, 2, 21)
local was = same and before
local flags, place, named, created = 0, nil, nil, false
if same and byte(before) == role and sub(before, 22, 25) == sub(SAYS, 22, 25) then
  place = sub(before, 46, 49)
else
  if same or (before and role ~= STOPPED) then strike(ADDR, own) end
  local name = name(SAYS, own)
  local from = name and call('HGET', MEMBERS, name)
  if from and from ~= ADDR then
    was = was or call('HGET', MEMBERS, from)
    strike(from, own)
  end
  local first, others = sizes()
  if role ~= STOPPED and first + others >= ROOM then
    flags = 2
  elseif role ~= STOPPED then
    created, named = seeders[own] + leechers[own] == 0, name
    local at = open_place(own, role == SEEDER)
    call('SETRANGE', KEYS[own], at * #ADDR, ADDR)
    place = pack('>I4', at)
  end
end

local all_seeders, all_leechers = sizes()
if (tidy and (swarm or place)) or (was and all_seeders + all_leechers == 0) then flags = flags + 1 end
if swarm or place then
  if seen < now then
    local fade = math.exp((seen - now) / EXPIRY)
    seen, up, down = now, up * fade, down * fade
  end
  if was then
    local up_was, down_was = unpack_bytes('>I8I8', was, 26)
    local up_is, down_is = unpack_bytes('>I8I8', SAYS, 26)
    if up_is > up_was then up = up + up_is - up_was end
    if down_is > down_was then down = down + down_is - down_was end
  end
  if options % 2 == 1 and not (was and byte(was) == SEEDER) then completed = completed + 1 end
  local says = place and SAYS .. pack('>I4', now) .. place
  swarm = pack(SWARM, due, seen, up, down, completed, seeders[2], leechers[2], cursor[2], seeders[3], leechers[3], cursor[3])
    .. PADDING
  if named then
    call('HSET', MEMBERS, 'm', swarm, ADDR, says, named, ADDR)
  elseif place then
    call('HSET', MEMBERS, 'm', swarm, ADDR, says)
  else
    call('HSET', MEMBERS, 'm', swarm)
  end
  -- Longer than the last that announces before the next sweep.
  local ttl = EXPIRY + math.ceil(EXPIRY / 8) + 1
  if tidy then
    for key = 1, 3 do call('EXPIRE', KEYS[key], ttl) end
  elseif created then
    call('EXPIRE', KEYS[own], ttl)
  end
end

-- So many addresses of a stretch of a roster, from a random place on and around its end.
local function window(family, start, size, most)
  local roster, length = KEYS[family], length(family)
  local function cut(from, to) return call('GETRANGE', roster, from * length, to * length - 1) end
  if size <= most then return size > 0 and cut(start, start + size) or '' end
  local first = start + random % size
  local over = first + most - start - size
  if over <= 0 then return cut(first, first + most) end
  return cut(first, start + size) .. cut(start, start + over)
end

-- At most so many addresses: seeders before leechers, or for a seeder leechers before seeders, and never the one who asks.
local function peers(family, most)
  local length, first, others = length(family), seeders[family], leechers[family]
  if most <= 0 then return '' end
  local list
  if first + others <= most + 1 then
    list = window(family, 0, first + others, most + 1)
  else
    local start, size = 0, first
    if role == SEEDER then start, size = first, others end
    list = window(family, start, size, most)
    local missing = most - #list / length
    if missing > 0 then list = list .. window(family, first - start, first + others - size, missing + 1) end
  end
  local at = string.find(list, ADDR, 1, true)
  while at and at % length ~= 1 do at = string.find(list, ADDR, at + 1, true) end
  if at then list = sub(list, 1, at - 1) .. sub(list, at + length) end
  return sub(list, 1, most * length)
end

local lists = {'', '', ''}
if role ~= STOPPED then
  lists[own] = peers(own, wanted)
  if options % 4 >= 2 then lists[5 - own] = peers(5 - own, wanted - #lists[own] / #ADDR) end
end
local reply = pack('>BI4I4I4I2I2', flags, all_seeders, all_leechers, completed, #lists[2], #lists[3])
  .. lists[2] .. lists[3]
if options < 4 then return reply end
for family = 2, 3 do
  if #lists[family] > 0 then
    local said = call('HMGET', MEMBERS, unpack(split(lists[family], family)))
    for n, says in ipairs(said) do said[n] = says and sub(says, 2, 21) or string.rep('\0', 20) end
    reply = reply .. table.concat(said)
  end
end
return reply
