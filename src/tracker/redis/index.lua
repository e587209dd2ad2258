-- Part of the index of swarms: takes sizes, and strikes off swarms that have not been heard of. In front of this, the store
-- defines LIFE, how long a swarm is remembered, in seconds, and ROOM, the most swarms.
--
-- KEYS 1  seen: info-hash, scored by when its size came
--      2  sizes: info-hash, scored by its peers
--      3  counts: info-hash -> seeders, leechers, downloads, 4 bytes each; s and l -> the sums of the first two
-- ARGV    info-hash, its counts; and so on
-- Returns a string: swarms, seeders, leechers, 8 bytes each.
local call = redis.call
local SEEN, SIZES, COUNTS = KEYS[1], KEYS[2], KEYS[3]
local now = tonumber(call('TIME')[1])
local sums = call('HMGET', COUNTS, 's', 'l')
local seeders, leechers = tonumber(sums[1] or 0), tonumber(sums[2] or 0)
local changed = false

local function strike(hash)
  local counts = call('HGET', COUNTS, hash)
  if counts then
    local s, l = struct.unpack('>I4I4', counts)
    seeders, leechers = seeders - s, leechers - l
    call('HDEL', COUNTS, hash)
  end
  if call('ZREM', SEEN, hash) + call('ZREM', SIZES, hash) > 0 or counts then changed = true end
end

for _, hash in ipairs(call('ZRANGE', SEEN, '-inf', now - LIFE, 'BYSCORE', 'LIMIT', 0, 500)) do strike(hash) end
for n = 1, #ARGV, 2 do
  local hash, counts = ARGV[n], ARGV[n + 1]
  local s, l = struct.unpack('>I4I4', counts)
  strike(hash)
  if s + l > 0 and call('ZCARD', SEEN) < ROOM then
    seeders, leechers, changed = seeders + s, leechers + l, true
    call('ZADD', SEEN, now, hash)
    call('ZADD', SIZES, s + l, hash)
    call('HSET', COUNTS, hash, counts)
  end
end
local swarms = call('ZCARD', SEEN)
-- Whoever asks for the sums alone has nothing written.
if changed and swarms > 0 then
  call('HSET', COUNTS, 's', seeders, 'l', leechers)
  for key = 1, 3 do call('EXPIRE', KEYS[key], LIFE) end
elseif changed then
  call('DEL', unpack(KEYS))
end
return struct.pack('>I8I8I8', swarms, seeders, leechers)
