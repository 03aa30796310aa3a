-- What a JIT compiler finds hard: hot loops whose types change, side exits, errors thrown out of
-- compiled code, coroutines, strings, garbage. For LuaJIT and Lua 5.4; each prints the same
-- on the host and in the guest.
local scale = tonumber(arg and arg[1]) or 1

local function report(name, ...)
	local out = { name }
	for i = 1, select("#", ...) do
		local value = select(i, ...)
		out[#out + 1] = type(value) == "number" and string.format("%.17g", value) or tostring(value)
	end
	print(table.concat(out, " "))
end

local function nbody(steps)
	local bodies = {
		{ 0, 0, 0, 0, 0, 0, 39.47841760435743 },
		{ 4.84, -1.16, -0.10, 0.606, 2.81, -0.02, 0.037 },
		{ 8.34, 4.12, -0.40, -1.01, 1.82, 0.008, 0.011 },
		{ 12.89, -15.11, -0.22, 1.08, 0.868, -0.010, 0.0017 },
		{ 15.37, -25.9, 0.179, 0.979, 0.594, -0.034, 0.0020 },
	}
	for _ = 1, steps do
		for i = 1, #bodies do
			local a = bodies[i]
			for j = i + 1, #bodies do
				local b = bodies[j]
				local dx, dy, dz = a[1] - b[1], a[2] - b[2], a[3] - b[3]
				local d2 = dx * dx + dy * dy + dz * dz
				local mag = 0.001 / (d2 * math.sqrt(d2))
				a[4], a[5], a[6] = a[4] - dx * b[7] * mag, a[5] - dy * b[7] * mag, a[6] - dz * b[7] * mag
				b[4], b[5], b[6] = b[4] + dx * a[7] * mag, b[5] + dy * a[7] * mag, b[6] + dz * a[7] * mag
			end
		end
		for i = 1, #bodies do
			local a = bodies[i]
			a[1], a[2], a[3] = a[1] + 0.001 * a[4], a[2] + 0.001 * a[5], a[3] + 0.001 * a[6]
		end
	end
	local sum = 0
	for i = 1, #bodies do
		for k = 1, 7 do sum = sum + bodies[i][k] * k end
	end
	return sum
end

local function fannkuch(n)
	local p, q, s, sign, flipsmax, sum = {}, {}, {}, 1, 0, 0
	for i = 1, n do p[i], q[i], s[i] = i, i, i end
	repeat
		local q0 = p[1]
		if q0 ~= 1 then
			for i = 2, n do q[i] = p[i] end
			local flips = 1
			while true do
				local qq = q[q0]
				if qq == 1 then
					sum = sum + sign * flips
					if flips > flipsmax then flipsmax = flips end
					break
				end
				q[q0] = q0
				if q0 >= 4 then
					local i, j = 2, q0 - 1
					repeat q[i], q[j] = q[j], q[i]; i = i + 1; j = j - 1 until i >= j
				end
				q0 = qq
				flips = flips + 1
			end
		end
		if sign == 1 then
			p[1], p[2] = p[2], p[1]
			sign = -1
		else
			p[2], p[3] = p[3], p[2]
			sign = 1
			for i = 3, n do
				local sx = s[i]
				if sx ~= 1 then s[i] = sx - 1; break end
				if i == n then return sum, flipsmax end
				s[i] = i
				local t = p[1]
				for j = 1, i do p[j] = p[j + 1] end
				p[i + 1] = t
			end
		end
	until false
end

local function trees(depth)
	local function make(d)
		if d == 0 then return {} end
		return { make(d - 1), make(d - 1) }
	end
	local function check(t) return t[1] and 1 + check(t[1]) + check(t[2]) or 1 end
	local sum, kept = 0, make(depth)
	for d = 4, depth, 2 do
		for _ = 1, 2 ^ (depth - d + 2) do sum = sum + check(make(d)) end
	end
	return sum + check(kept)
end

local function strings(n)
	local parts, words = {}, 0
	for i = 1, n do parts[i] = string.format("%d:%x:%s;", i * 7919 % 1000, i, ("ab"):rep(i % 7)) end
	local text = table.concat(parts)
	local replaced, count = text:gsub("(%d+):(%x+)", "%2-%1")
	for word in replaced:gmatch("[%x]+%-(%d+)") do words = words + #word end
	local seen, sum = {}, 0
	for c in text:gmatch("a+b") do seen[c] = (seen[c] or 0) + 1 end
	for i = 1, #text do sum = (sum * 31 + text:byte(i)) % 2147483647 end
	return count, words, seen.ab, sum, #replaced, replaced:upper():reverse():sub(100, 140)
end

-- Errors leave compiled loops at every depth, through pcall and coroutines.
local function errors(n)
	local function deep(d, i)
		if d == 0 then
			if i % 5 == 0 then error({ i }) end
			if i % 7 == 0 then return nil + i end
			return i
		end
		return (deep(d - 1, i))
	end
	local sum, failed, typed = 0, 0, 0
	for i = 1, n do
		local ok, value = pcall(deep, i % 20, i)
		if ok then sum = sum + value
		elseif type(value) == "table" then failed = failed + value[1]
		else typed = typed + #value:match("attempt.*") end
	end
	local overflow = function() local function f() return 1 + f() end return f() end
	local ok, why = pcall(overflow)
	return sum, failed, typed, ok, why:match("stack overflow")
end

local function coroutines(n)
	local function generator(from, to)
		return coroutine.wrap(function() for i = from, to do coroutine.yield(i) end end)
	end
	local sum = 0
	for i = 1, n do
		for v in generator(i, i + i % 13) do sum = sum + v end
		local co = coroutine.create(function() error("x" .. i) end)
		local ok, why = coroutine.resume(co)
		sum = sum + (ok and 1 or #why)
	end
	return sum
end

-- One loop, and what it works on changes its type under it.
local function polymorph(n)
	local things = {}
	local classes = {}
	for k = 1, 9 do
		classes[k] = { __index = { area = function(self) return self.a * k + (self.b or 0) end },
			__add = function(x, y) return setmetatable({ a = x.a + y.a, b = k }, classes[1]) end }
	end
	for i = 1, n do
		things[i] = setmetatable(i % 3 == 0 and { a = i } or { b = i / 3, a = i % 17 }, classes[i % 9 + 1])
	end
	local sum, carry = 0, things[1]
	for round = 1, 6 do
		for i = 1, n do
			local t = things[(i * round) % n + 1]
			sum = sum + t:area()
			if i % 50 == 0 then carry = carry + t end
		end
	end
	return sum, carry:area()
end

local function numbers(n)
	local x, y, z = 0.5, 0, 0
	for i = 1, n do
		x = math.sin(x * i) + math.fmod(i, 3) / 7
		y = y + math.floor(x * 1000) % 11 - (i % 2 == 0 and 0.1 or -1e10) ^ 2 % 13
		z = (z * 1103515245 + 12345 + i) % 4294967296
		if x ~= x then x = 0 end
	end
	return x, y, z, math.huge, -math.huge, 0 / 0 ~= 0 / 0, tostring(1e300 * 1e10), 2 ^ 53 + 1
end

report("nbody", nbody(60000 * scale))
report("fannkuch", fannkuch(scale > 1 and 9 or 8))
report("trees", trees(12))
report("strings", strings(20000 * scale))
report("errors", errors(30000 * scale))
report("coroutines", coroutines(8000 * scale))
report("polymorph", polymorph(20000 * scale))
report("numbers", numbers(400000 * scale))
