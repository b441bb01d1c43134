-- One step of counting (core/rates.py), on the server's own clock, all or nothing.
-- KEYS: the rates, then the rooms. ARGV: kind, lease in ms, how many rates; limit and amount of
-- each rate; limit of each room; then ids. Every number is a whole one below 2^53.
-- Returns: what refused (-1: nothing), how long it takes (ms), then what is owed of each rate.
local SHARE, FORGOTTEN, ROOM_WAIT = 60000, 120000, 1000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kind, lease, rates = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local rooms = #KEYS - rates
local first_room = 3 + 2 * rates
local ids = {}
for i = first_room + rooms + 1, #ARGV do ids[#ids + 1] = ARGV[i] end

local refused, longest = -1, 0
local function wait(place, ms)
  if ms > longest then refused, longest = place, ms end
end

local owed, limits, amounts = {}, {}, {}
for i = 1, rates do
  local limit, amount = tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[3 + 2 * i])
  local debt, kept = 0, redis.call('GET', KEYS[i])
  if kept then
    local was, at = string.match(kept, '^(%d+) (%d+)$')
    local passed = math.min(math.max(now - tonumber(at), 0), FORGOTTEN)
    debt = math.max(0, math.min(tonumber(was), 2 * limit * SHARE) - limit * passed)
  end
  owed[i], limits[i], amounts[i] = debt, limit, amount
  if kind == 'take' then
    wait(i - 1, math.ceil((debt - (limit - math.min(amount, limit)) * SHARE) / limit))
  end
end
for i = 1, rooms do
  local key = KEYS[rates + i]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if kind == 'take' and redis.call('ZCARD', key) >= tonumber(ARGV[first_room + i]) then
    wait(rates + i - 1, ROOM_WAIT)
  end
end

if refused < 0 then
  for i = 1, rates do
    owed[i] = math.max(0, math.min(owed[i] + amounts[i] * SHARE, 2 * limits[i] * SHARE))
    redis.call('SET', KEYS[i], string.format('%.0f %.0f', owed[i], now), 'PX', FORGOTTEN)
  end
  for i = rates + 1, rates + rooms do
    for _, id in ipairs(ids) do
      if kind == 'drop' then
        redis.call('ZREM', KEYS[i], id)
      else
        redis.call('ZADD', KEYS[i], string.format('%.0f', now + lease), id)
      end
    end
    if kind ~= 'drop' then redis.call('PEXPIRE', KEYS[i], lease) end
  end
end
return {refused, longest, unpack(owed)}
