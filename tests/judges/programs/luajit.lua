-- LuaJIT's own: C data, callbacks from C, bit operations, 64-bit integers, code made and thrown away.
local scale = tonumber(arg and arg[1]) or 1

local function report(name, ...)
	local out = { name }
	for i = 1, select("#", ...) do
		local value = select(i, ...)
		out[#out + 1] = type(value) == "number" and string.format("%.17g", value) or tostring(value)
	end
	print(table.concat(out, " "))
end

local ffi, bit = require("ffi"), require("bit")

ffi.cdef [[
typedef struct { int32_t a; double d; uint8_t bytes[16]; int64_t l; } record;
void qsort(void *base, size_t nmemb, size_t size, int (*compar)(const int *, const int *));
int memcmp(const void *, const void *, size_t);
]]

local function records(n)
	local array = ffi.new("record[?]", n)
	for round = 1, 20 do
		for i = 0, n - 1 do
			local r = array[i]
			r.a = r.a * 5 + i + round
			r.d = r.d / 3 + r.a
			r.bytes[i % 16] = r.bytes[i % 16] + r.a
			r.l = r.l * 3 - r.a
		end
	end
	local sum, d, l = 0, 0, 0LL
	for i = 0, n - 1 do
		sum = sum + array[i].bytes[i % 16]
		d = d + array[i].d
		l = l + array[i].l
	end
	return sum, d, tostring(l)
end

local function callbacks(n)
	local array, calls, x = ffi.new("int[?]", n), 0, 12345
	for i = 0, n - 1 do
		x = bit.band(x * 1103515 + 12345, 0x7fffff)
		array[i] = x
	end
	local compare = ffi.cast("int (*)(const int *, const int *)", function(p, q)
		calls = calls + 1
		return p[0] - q[0]
	end)
	ffi.C.qsort(array, n, 4, compare)
	compare:free()
	local sum = 0
	for i = 0, n - 1 do sum = bit.bxor(bit.rol(sum, 5), array[i]) end
	for i = 1, n - 1 do assert(array[i - 1] <= array[i]) end
	return calls, sum
end

local function sha256(text)
	local band, bxor, ror, rshift, bnot = bit.band, bit.bxor, bit.ror, bit.rshift, bit.bnot
	local k, h, n = {}, {}, 0
	for p = 2, 311 do
		local prime = true
		for q = 2, math.sqrt(p) do if p % q == 0 then prime = false end end
		if prime then
			n = n + 1
			k[n] = bit.tobit(math.floor((p ^ (1 / 3) % 1) * 2 ^ 32))
			if n <= 8 then h[n] = bit.tobit(math.floor((p ^ 0.5 % 1) * 2 ^ 32)) end
		end
	end
	local bits = #text * 8
	text = text .. "\128" .. ("\0"):rep((55 - #text) % 64) .. ("\0"):rep(4) ..
		string.char(rshift(bits, 24), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
	local w = {}
	for at = 1, #text, 64 do
		for i = 0, 15 do
			local b1, b2, b3, b4 = text:byte(at + i * 4, at + i * 4 + 3)
			w[i] = bit.bor(bit.lshift(b1, 24), bit.lshift(b2, 16), bit.lshift(b3, 8), b4)
		end
		for i = 16, 63 do
			local x, y = w[i - 15], w[i - 2]
			w[i] = bit.tobit(w[i - 16] + bxor(ror(x, 7), ror(x, 18), rshift(x, 3)) + w[i - 7] +
				bxor(ror(y, 17), ror(y, 19), rshift(y, 10)))
		end
		local a, b, c, d, e, f, g, hh = unpack(h)
		for i = 0, 63 do
			local t1 = hh + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g)) + k[i + 1] + w[i]
			local t2 = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
			hh, g, f, e, d, c, b, a = g, f, e, bit.tobit(d + t1), c, b, a, bit.tobit(t1 + t2)
		end
		local new = { a, b, c, d, e, f, g, hh }
		for i = 1, 8 do h[i] = bit.tobit(h[i] + new[i]) end
	end
	for i = 1, 8 do h[i] = bit.tohex(h[i]) end
	return table.concat(h)
end

-- Much code compiled and thrown away: functions made of text, each hot for a moment.
local function generated(n)
	local sum = 0
	for i = 1, n do
		local f = assert(loadstring(("local n, x = ..., 0 for i = 1, n do x = (x * %d + i %% %d) %% 65521 end return x")
			:format(i % 31 + 1, i % 7 + 2)))
		sum = sum + f(200)
		if i % 100 == 0 then jit.flush() end
	end
	return sum
end

local function wide(n)
	local u, s = 0xcbf29ce484222325ULL, 1LL
	for i = 1, n do
		u = bit.bxor(u, i) * 0x100000001b3ULL
		s = s * 6364136223846793005LL + i
		if i % 3 == 0 then u = u / 3 + u % 1000003ULL end
		if i % 5 == 0 then s = s / -7 end
	end
	return tostring(u), tostring(s), tonumber(u), tonumber(s)
end

report("records", records(20000))
report("callbacks", callbacks(20000 * scale))
report("sha256", sha256(("insula "):rep(20000 * scale)))
report("generated", generated(1500 * scale))
report("wide", wide(300000 * scale))
